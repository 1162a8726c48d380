"""The executor: whatever a body does is an Outcome, and an interruption reaches the body alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any

import pytest

from greenworker.app.app import App
from greenworker.errors import Ignore, MaxRetriesExceededError, Reject, Retry, SoftTimeLimitExceeded, StopTask
from greenworker.execution.coroutines import CoroutineRunner
from greenworker.execution.executor import TaskExecutor, interrupt
from greenworker.execution.outcome import (
    Failed,
    Ignored,
    Outcome,
    PutBack,
    Rejected,
    Retried,
    Succeeded,
    TimedOut,
)
from greenworker.execution.request import Request
from greenworker.settings import Settings
from tests.support.clocks import FakeClock, FakeTimer
from tests.support.execution import make_request, raising


class ManualRun:
    """A run into which the body itself throws, at a moment of its choice, as a hub would while it waits."""

    def __init__(self) -> None:
        self.interruptible = False
        self.interrupted: BaseException | None = None
        self.pending: list[BaseException] = []

    def throw(self, exc: BaseException) -> bool:
        if not self.interruptible:
            return False
        self.pending.append(exc)
        return True

    def yield_to_hub(self) -> None:
        """What a green wait does: an exception that was thrown is raised here."""
        if self.pending and self.interruptible:
            self.interrupted = self.pending.pop(0)
            raise self.interrupted


class Bench:
    """An executor whose timer the test moves, and one task whose body the test gives."""

    def __init__(self, coroutines: CoroutineRunner, *, limits: bool = True) -> None:
        self.clock = FakeClock()
        self.timer = FakeTimer(self.clock)
        self.run = ManualRun()
        self.executor = TaskExecutor("node@host", self.timer, self.clock, coroutines, limits=limits)

    def wait(self, seconds: float) -> None:
        """A body that sleeps: time passes, what is due is thrown."""
        self.clock.advance(seconds)
        self.timer.run_due()
        self.run.yield_to_hub()

    def execute(self, body: Callable[..., Any], *, message: dict[str, Any] | None = None, **options: Any) -> Outcome:
        app = App("tests", settings=Settings())
        app.task(name="tests.body", **options)(body)
        self.request: Request = make_request(app=app, task="tests.body", **(message or {}))
        return Context().run(self.executor.execute, self.request, self.run)  # as a slot does it


@pytest.fixture
def bench(coroutines: CoroutineRunner) -> Bench:
    return Bench(coroutines)


def test_value(bench: Bench) -> None:
    def body(x: int, y: int) -> int:
        return x + y

    assert bench.execute(body, message={"args": [1], "kwargs": {"y": 2}}) == Succeeded(3)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError])
def test_whatever_is_raised_is_a_failure(bench: Bench, kind: type[BaseException]) -> None:
    outcome = bench.execute(raising(kind("x")))
    assert isinstance(outcome, Failed)
    assert type(outcome.exc) is kind
    assert not outcome.expected
    assert "raise exc" in outcome.traceback


def test_wrong_arguments_are_a_failure_of_the_task(bench: Bench) -> None:
    outcome = bench.execute(lambda: None, message={"args": [1, 2, 3]})
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.exc, TypeError)


def test_throws_makes_a_failure_expected(bench: Bench) -> None:
    outcome = bench.execute(raising(KeyError("x")), throws=(LookupError,))
    assert isinstance(outcome, Failed)
    assert outcome.expected


def test_what_a_task_asks_for(bench: Bench) -> None:
    assert bench.execute(raising(Ignore())) == Ignored()
    assert bench.execute(raising(Reject("no", requeue=True))) == Rejected("no", True)
    assert isinstance(bench.execute(raising(Retry("later"))), Retried)


def test_autoretry_until_the_retries_are_used_up(bench: Bench) -> None:
    options = {"autoretry_for": (OSError,), "max_retries": 2, "retry_backoff": False, "default_retry_delay": 7}
    first = bench.execute(raising(OSError("x")), **options)
    assert isinstance(first, Retried)
    assert first.retry.when == 7
    last = bench.execute(raising(OSError("x")), message={"retries": 2}, **options)
    assert isinstance(last, Failed)
    assert isinstance(last.exc, OSError)


def test_soft_limit_can_be_caught(bench: Bench) -> None:
    def body() -> str:
        try:
            bench.wait(5)
        except SoftTimeLimitExceeded:
            return "cleaned up"
        return "not reached"

    assert bench.execute(body, soft_time_limit=5) == Succeeded("cleaned up")


def test_soft_limit_not_caught_is_a_failure(bench: Bench) -> None:
    outcome = bench.execute(lambda: bench.wait(5), soft_time_limit=5)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.exc, SoftTimeLimitExceeded)


def test_hard_limit_is_not_caught_by_except_exception(bench: Bench) -> None:
    def body() -> None:
        try:
            bench.wait(5)
        except Exception:
            pytest.fail("the hard limit was caught")

    outcome = bench.execute(body, time_limit=5)
    assert isinstance(outcome, TimedOut)
    assert outcome.limit == 5
    assert "bench.wait(5)" in outcome.traceback, "it says where in the task the time ran out"


@pytest.mark.parametrize("then", ["return", "raise"])
def test_swallowed_hard_limit_is_still_the_outcome(bench: Bench, then: str) -> None:
    def body() -> str:
        try:
            bench.wait(5)
        except BaseException:
            if then == "raise":
                raise RuntimeError("from the wait that was broken off") from None
        return "swallowed"

    outcome = bench.execute(body, time_limit=5)
    assert isinstance(outcome, TimedOut)


def test_limit_due_after_the_body_ended_changes_nothing(bench: Bench) -> None:
    assert bench.execute(lambda: "done", time_limit=5, soft_time_limit=4) == Succeeded("done")
    assert bench.timer.pending == 0
    assert not interrupt(bench.request, bench.run, PutBack())  # type: ignore[arg-type]


def test_limits_of_the_message_come_first(bench: Bench) -> None:
    outcome = bench.execute(lambda: bench.wait(2), message={"time_limit": 1.0}, time_limit=50)
    assert isinstance(outcome, TimedOut)
    assert outcome.limit == 1.0


def test_pool_without_limits_sets_no_timer(coroutines: CoroutineRunner) -> None:
    bench = Bench(coroutines, limits=False)
    assert bench.execute(lambda: bench.timer.pending, time_limit=5) == Succeeded(0)


def test_put_back_ends_the_body(bench: Bench) -> None:
    def body() -> None:
        assert interrupt(bench.request, bench.run, PutBack())  # type: ignore[arg-type]
        bench.run.yield_to_hub()

    assert bench.execute(body) == PutBack()
    assert isinstance(bench.run.interrupted, StopTask)


def test_coroutine(bench: Bench) -> None:
    async def body(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    assert bench.execute(body, message={"args": [1]}) == Succeeded(2)


def test_coroutine_that_raises(bench: Bench) -> None:
    async def body() -> None:
        raise KeyError("x")

    outcome = bench.execute(body)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.exc, KeyError)


def test_bound_task_sees_its_request(bench: Bench) -> None:
    def body(self: Any) -> tuple[str, int, str]:
        return self.request.id, self.request.retries, self.request.hostname

    outcome = bench.execute(body, bind=True, message={"task_id": "abc", "retries": 1})
    assert outcome == Succeeded(("abc", 1, "node@host"))


def test_bare_retry_is_bounded_too(bench: Bench) -> None:
    assert isinstance(bench.execute(raising(Retry("again")), max_retries=1), Retried)
    outcome = bench.execute(raising(Retry("again")), message={"retries": 1}, max_retries=1)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.exc, MaxRetriesExceededError)
