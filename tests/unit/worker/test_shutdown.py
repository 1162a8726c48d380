"""Shutdown: its order, what counts as put back, warm that turns cold, and what the guardian is told."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from greenworker.execution.ledger import Ledger
from greenworker.execution.request import Request
from greenworker.worker import shutdown as module
from greenworker.worker.shutdown import HANG_TIMEOUT, Shutdown, patience
from greenworker.worker.signals import End
from tests.support.execution import make_request

WAIT = 10.0


class Bench:
    """Plays the consumer and the dispatcher; the ledger is the real one."""

    def __init__(self, timeout: float) -> None:
        self.calls: list[str] = []
        self.ledger = Ledger()
        self.stopped = threading.Event()
        self.closed = threading.Event()
        self.on_put_back: Callable[[], None] = lambda: None
        self.on_abandon: Callable[[], None] = lambda: None
        self.allowed: list[float] = []
        self.steps_closed = 0
        self.shutdown = Shutdown(
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            self.ledger,
            timeout=timeout,
            end_within=self.allowed.append,
            close_steps=self.close_steps,
        )

    def receive(self, task_id: str) -> Request:
        request = make_request(task_id=task_id)
        self.ledger.add(request)
        return request

    def wait(self) -> list[str]:
        assert self.stopped.wait(WAIT), self.calls
        return self.calls

    def close_steps(self) -> None:
        assert self.calls == ["close"], "the steps close before anything is waited for"
        self.steps_closed += 1

    # --- the consumer

    def close(self) -> None:
        self.calls.append("close")
        self.closed.set()

    def stop(self) -> None:
        self.calls.append("stop")
        self.stopped.set()

    # --- the dispatcher

    def put_back_running(self) -> int:
        self.calls.append("put back")
        running = len(self.ledger)
        self.on_put_back()
        return running

    def abandon_running(self) -> int:
        self.calls.append("abandon")
        running = len(self.ledger)
        self.on_abandon()
        return running


@pytest.fixture(autouse=True)
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERRUPT_TIMEOUT", 0.05)
    monkeypatch.setattr(module, "SETTLE_TIMEOUT", 0.05)


def test_nothing_runs() -> None:
    bench = Bench(WAIT)
    bench.shutdown.ask(End.WARM)
    assert bench.wait() == ["close", "stop"]
    assert (bench.shutdown.begun, bench.shutdown.put_back, bench.steps_closed) == (True, 0, 1)


def test_warm_waits_for_what_runs() -> None:
    bench = Bench(WAIT)
    request = bench.receive("one")
    bench.shutdown.ask(End.WARM)
    assert bench.closed.wait(WAIT)
    assert not bench.stopped.wait(0.05), "it stopped under a running task"
    bench.ledger.remove(request)
    assert bench.wait() == ["close", "stop"]
    assert bench.shutdown.put_back == 0


def test_what_outlives_the_timeout_is_put_back() -> None:
    bench = Bench(0.05)
    requests = [bench.receive("one"), bench.receive("two")]
    bench.on_put_back = lambda: [bench.ledger.remove(request) for request in requests] and None
    bench.shutdown.ask(End.WARM)
    assert bench.wait() == ["close", "put back", "stop"]
    assert bench.shutdown.put_back == 2


def test_what_swallows_its_interruption_is_abandoned(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(0.0)
    request = bench.receive("one")
    bench.on_abandon = lambda: bench.ledger.remove(request)
    bench.shutdown.ask(End.WARM)
    assert bench.wait() == ["close", "put back", "abandon", "stop"]
    assert "1 tasks do not end" in caplog.text


def test_what_cannot_be_settled_counts_as_put_back(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(0.0)
    bench.on_put_back = lambda: bench.receive("its result is not stored yet") and None
    bench.receive("one")
    bench.shutdown.ask(End.WARM)
    assert bench.wait() == ["close", "put back", "abandon", "stop"]
    assert bench.shutdown.put_back == 2
    assert "2 tasks could not be settled" in caplog.text


def test_cold_waits_for_nothing() -> None:
    bench = Bench(1_000.0)
    request = bench.receive("one")
    bench.on_put_back = lambda: bench.ledger.remove(request)
    bench.shutdown.ask(End.COLD)
    assert bench.wait() == ["close", "put back", "stop"]


def test_cold_ends_a_warm_one() -> None:
    bench = Bench(1_000.0)
    request = bench.receive("one")
    bench.on_put_back = lambda: bench.ledger.remove(request)
    bench.shutdown.ask(End.WARM)
    assert bench.closed.wait(WAIT)
    bench.shutdown.ask(End.WARM)
    bench.shutdown.ask(End.COLD)
    assert bench.wait() == ["close", "put back", "stop"]


def test_loop_is_stopped_even_if_putting_back_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    bench = Bench(0.0)
    bench.receive("one")

    def broken() -> None:
        raise RuntimeError("a bug in put back")

    bench.on_put_back = broken
    bench.shutdown.ask(End.WARM)
    assert bench.wait() == ["close", "put back", "stop"]


def test_guardian_is_told_how_long_it_may_take() -> None:
    bench = Bench(30.0)
    bench.shutdown.ask(End.WARM)
    bench.shutdown.ask(End.COLD)
    assert bench.allowed == [30.0 + HANG_TIMEOUT, HANG_TIMEOUT]
    assert (patience(End.WARM, 30.0), patience(End.COLD, 30.0)) == (30.0 + HANG_TIMEOUT, HANG_TIMEOUT)
    bench.wait()
