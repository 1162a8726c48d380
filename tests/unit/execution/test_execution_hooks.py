"""Hooks around the body of a task, in its slot: their order, their context, and that they change nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from typing import Any

import pytest

from greenworker import App, Ignore, Reject, Task
from greenworker.errors import StopTask, TimeLimitExceeded
from greenworker.execution.coroutines import CoroutineRunner
from greenworker.execution.executor import TaskExecutor, interrupt
from greenworker.execution.hooks import HOOK_TIMEOUT
from greenworker.execution.outcome import Failed, Ignored, Outcome, PutBack, Rejected, Retried, Succeeded, TimedOut
from greenworker.settings import Settings
from tests.support.clocks import FakeClock, FakeTimer
from tests.support.execution import make_request, raising
from tests.support.greenproc import GREEN_POOLS, run_patched


class Hooked(Task):
    """Keeps what its hooks are told; ``then`` is called in each with its name, and may do what hooks do wrong."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.then: Callable[[str], Any] = lambda name: None

    def _keep(self, name: str, *told: Any) -> Any:
        self.told.append((name, self.request.id, *told))
        return self.then(name)

    def before_start(self, *told: Any) -> Any:
        return self._keep("before_start", *told)

    def on_success(self, *told: Any) -> Any:
        return self._keep("on_success", *told)

    def on_failure(self, *told: Any) -> Any:
        return self._keep("on_failure", *told)

    def on_retry(self, *told: Any) -> Any:
        return self._keep("on_retry", *told)

    def after_return(self, *told: Any) -> Any:
        return self._keep("after_return", *told)

    @property
    def names(self) -> list[str]:
        return [told[0] for told in self.told]


class SteppedRun:
    """A run that is interrupted where the code in it waits next, as by a hub."""

    def __init__(self) -> None:
        self.interruptible = False
        self.interrupted: BaseException | None = None
        self.pending: list[BaseException] = []

    def throw(self, exc: BaseException) -> bool:
        self.pending.append(exc)
        return True

    def wait(self) -> None:
        while self.pending and self.interruptible:
            self.interrupted = self.pending.pop(0)
            raise self.interrupted


class Bench:
    """A real executor, a timer that the test moves, one task."""

    def __init__(self, coroutines: CoroutineRunner) -> None:
        self.clock, self.run = FakeClock(), SteppedRun()
        self.timer = FakeTimer(self.clock)
        self.executor = TaskExecutor("node@host", self.timer, self.clock, coroutines, limits=True)
        self.app = App("tests", settings=Settings())

    def task(self, body: Callable[..., Any], **options: Any) -> Hooked:
        task = self.app.task(base=Hooked, name="tests.hooked", **options)(body)
        assert isinstance(task, Hooked)
        return task

    def wait(self, seconds: float) -> None:
        """What code in the slot does that waits."""
        self.clock.advance(seconds)
        self.timer.run_due()
        self.run.wait()

    def execute(self, **message: Any) -> Outcome:
        self.request = make_request(app=self.app, task="tests.hooked", **message)
        return Context().run(self.executor.execute, self.request, self.run)


@pytest.fixture
def bench(coroutines: CoroutineRunner) -> Bench:
    return Bench(coroutines)


def test_a_success(bench: Bench) -> None:
    task = bench.task(lambda x, y: x + y)
    assert bench.execute(args=[1], kwargs={"y": 2}) == Succeeded(3)
    run = ("id-1", [1], {"y": 2})
    assert task.told == [
        ("before_start", "id-1", *run),
        ("on_success", "id-1", 3, *run),
        ("after_return", "id-1", "SUCCESS", 3, *run, None),
    ]


def test_a_failure(bench: Bench) -> None:
    error = ValueError("no")
    task = bench.task(raising(error))
    outcome = bench.execute()
    assert isinstance(outcome, Failed)
    assert task.names == ["before_start", "on_failure", "after_return"]
    *told, einfo = task.told[1]
    assert told == ["on_failure", "id-1", error, "id-1", (), {}]
    assert (einfo.exception, einfo.traceback) == (error, outcome.traceback)
    assert task.told[2] == ("after_return", "id-1", "FAILURE", error, "id-1", (), {}, einfo)


def test_a_retry_is_no_return(bench: Bench) -> None:
    error = ValueError("no")
    task = bench.task(raising(error), autoretry_for=(ValueError,))
    assert isinstance(bench.execute(), Retried)
    assert task.names == ["before_start", "on_retry"]
    assert task.told[1][2] is error
    assert task.told[1][-1].exception is error


@pytest.mark.parametrize(("raised", "outcome"), [(Ignore(), Ignored()), (Reject("no"), Rejected("no", False))])
def test_what_leaves_no_result_has_no_hooks_after_it(bench: Bench, raised: Exception, outcome: Outcome) -> None:
    task = bench.task(raising(raised))
    assert bench.execute() == outcome
    assert task.names == ["before_start"]


def test_a_time_limit_is_a_failure_and_does_not_count_in_hooks(bench: Bench) -> None:
    task = bench.task(lambda: bench.wait(2), time_limit=3)
    task.then = lambda name: bench.wait(2)
    assert bench.execute() == Succeeded(None)
    assert task.names == ["before_start", "on_success", "after_return"]

    task.time_limit, task.told = 1, []
    assert isinstance(bench.execute(), TimedOut)
    assert task.names == ["before_start", "on_failure", "after_return"]
    assert repr(task.told[1][2]) == repr(TimeLimitExceeded(1))


@pytest.mark.parametrize("error", [ValueError("of the hook"), SystemExit(3), Ignore(), Reject("no")])
def test_what_a_hook_raises_is_logged_with_the_id_and_changes_nothing(
    bench: Bench, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    task = bench.task(lambda: "value")

    def fail(name: str) -> None:
        raise error

    task.then = fail
    assert bench.execute(task_id="id-7") == Succeeded("value")
    assert task.names == ["before_start", "on_success", "after_return"]
    assert [record.getMessage() for record in caplog.records] == [
        f"Task tests.hooked[id-7]: its hook {name} failed" for name in task.names
    ]
    assert all(record.levelno == logging.ERROR and record.exc_info for record in caplog.records)


def test_a_hook_that_hangs_is_ended_and_the_next_still_runs(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    task = bench.task(lambda: "value")
    task.then = lambda name: bench.wait(HOOK_TIMEOUT + 1) if name == "on_success" else None
    assert bench.execute() == Succeeded("value")
    assert task.names == ["before_start", "on_success", "after_return"]
    assert "its hook on_success was ended: not done in 30 s" in caplog.text
    assert bench.timer.pending == 0


def test_a_shutdown_before_the_body_puts_the_task_back(bench: Bench) -> None:
    ran: list[int] = []
    task = bench.task(lambda: ran.append(1))

    def stop(name: str) -> None:
        interrupt(bench.request, bench.run, PutBack())  # type: ignore[arg-type]
        bench.run.wait()

    task.then = stop
    assert bench.execute() == PutBack()
    assert (ran, task.names) == ([], ["before_start"])


def test_a_shutdown_after_the_body_leaves_its_outcome(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    task = bench.task(lambda: "value")

    def stop(name: str) -> None:
        if name == "on_success":
            interrupt(bench.request, bench.run, PutBack())  # type: ignore[arg-type]
            bench.run.wait()

    task.then = stop
    assert bench.execute() == Succeeded("value")
    assert isinstance(bench.run.interrupted, StopTask)
    assert "its hook on_success was ended: the worker stops" in caplog.text


def test_a_hook_may_be_a_coroutine(bench: Bench) -> None:
    ended: list[str] = []

    async def later(name: str) -> None:
        await asyncio.sleep(0)
        ended.append(name)

    task = bench.task(lambda: None)
    task.then = later
    bench.execute()
    assert ended == ["before_start", "on_success", "after_return"]


def test_a_call_of_the_class_is_what_runs(bench: Bench) -> None:
    class Wrapped(Hooked):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return ["wrapped", super().__call__(*args, **kwargs)]

    @bench.app.task(base=Wrapped, name="tests.hooked", bind=True)
    def body(self: Task, x: int) -> list[Any]:
        return [x, self.request.id, self.request.called_directly]

    assert bench.execute(args=[1]) == Succeeded(["wrapped", [1, "id-1", False]])


@pytest.mark.parametrize("pool", GREEN_POOLS)
def test_on_green_threads_it_is_ended_where_it_waits_and_hits_nobody_else(pool: str) -> None:
    scene = """
    import logging, time
    from greenworker import App, Task
    from greenworker.clock import SystemClock
    from greenworker.execution.hooks import HookCaller
    from greenworker.execution.outcome import Succeeded
    from greenworker.worker.timer import HeapTimer
    from tests.support.execution import make_request, raising
    from tests.support.pool_scenes import started_pool, until

    class Hangs(Task):
        def before_start(self, *told): time.sleep(0.0 if told[0] == "quick" else 60)
        def on_success(self, *told): time.sleep(60)
    app = App("tests"); app.task(base=Hangs, name="tests.hangs")(lambda: None)
    timer = HeapTimer(SystemClock()); timer.start()
    caller = HookCaller(timer, None, limits=True, timeout=0.2)
    ended = []
    def job(run):
        request = make_request(app=app, task="tests.hangs", task_id=run.subject)
        caller.before(request, run)
        time.sleep(0.05)        # the body: nothing meant for a hook may come here
        caller.after(request, run, Succeeded(None))
        ended.append((run.subject, run.interruptible))
    jobs = started_pool(POOL, 50)
    logging.disable(logging.ERROR)
    began = time.monotonic()
    for number in range(50): jobs.submit(job, "quick" if number % 2 else f"id-{number}")
    assert jobs.join(10) and time.monotonic() - began < 5
    assert len(ended) == 50 and not any(interruptible for _, interruptible in ended)
    timer.stop(); jobs.stop()
    print("passed")
    """
    assert run_patched(pool, scene).splitlines()[-1] == "passed"
