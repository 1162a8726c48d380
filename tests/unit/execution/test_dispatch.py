"""The dispatcher: now, later, parked or given back; a late outcome is dropped; a fault of ours costs no message."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from greenworker.broker.delivery import Settlement
from greenworker.broker.publisher import Outgoing
from greenworker.execution.admission import Admission
from greenworker.execution.dispatch import FAULT_DELAY, LONGEST_DEFERRAL, Dispatcher
from greenworker.execution.ledger import Ledger
from greenworker.execution.outcome import Outcome, PutBack, Revoked, Succeeded
from greenworker.execution.pool import PoolClosedError
from greenworker.execution.request import Move, Request, Stage
from tests.support.clocks import FakeClock, FakeTimer
from tests.support.execution import RecordingSource, make_app, make_request


class HeldRun:
    """A run that the test starts."""

    def __init__(self, job: Any, subject: Any) -> None:
        self.job = job
        self.subject = subject
        self.cancelled = False
        self.thrown: list[BaseException] = []

    def cancel(self) -> bool:
        self.cancelled = True
        return True

    def throw(self, exc: BaseException) -> bool:
        self.thrown.append(exc)
        return True


class HeldPool:
    """Keeps jobs until the test runs them."""

    def __init__(self) -> None:
        self.runs: deque[HeldRun] = deque()
        self.open = True

    def submit(self, job: Any, subject: Any = None, **options: Any) -> HeldRun:
        if not self.open:
            raise PoolClosedError("closed")
        run = HeldRun(job, subject)
        self.runs.append(run)
        return run

    def run_one(self) -> None:
        run = self.runs.popleft()
        run.job(run)


class Bench:
    """A dispatcher between a held pool and a settler that notes what it gets."""

    def __init__(self, *, deferred_limit: int = 2, can_park: bool = True) -> None:
        self.app = make_app()
        self.clock = FakeClock()
        self.timer = FakeTimer(self.clock)
        self.pool = HeldPool()
        self.source = RecordingSource()
        self.ledger = Ledger()
        self.admission = Admission(self.clock)
        self.settled: list[Outcome] = []
        self.parked: list[Outgoing] = []
        self.calls: deque[Callable[[], None]] = deque()
        self.outcome: Callable[[Request], Outcome] = lambda request: Succeeded(None)
        self.dispatcher = Dispatcher(
            pool=self.pool,  # type: ignore[arg-type]
            admission=self.admission,
            executor=self,  # type: ignore[arg-type]
            settler=self,  # type: ignore[arg-type]
            ledger=self.ledger,
            timer=self.timer,
            clock=self.clock,
            call_soon=self.calls.append,
            deferred_limit=deferred_limit,
            can_park=can_park,
        )

    # the executor and the settler
    def execute(self, request: Request, run: HeldRun) -> Outcome:
        return self.outcome(request)

    def started(self, request: Request) -> None:
        pass

    def settle(self, request: Request, outcome: Outcome) -> None:
        self.settled.append(outcome)
        request.delivery.ack()
        request.move(Move.SETTLE)
        self.ledger.remove(request)

    def replace(self, request: Request, outgoing: Outgoing) -> None:
        self.parked.append(outgoing)
        self.ledger.remove(request)

    # what tests do
    def receive(self, **fields: Any) -> Request:
        request = make_request(app=self.app, source=self.source, **fields)
        self.ledger.add(request)
        self.dispatcher.admit(request)
        return request

    def later(self, seconds: float) -> Any:
        return self.clock.utcnow() + timedelta(seconds=seconds)

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.timer.run_due()
        while self.calls:
            self.calls.popleft()()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_plain_request_runs_and_is_settled(bench: Bench) -> None:
    request = bench.receive()
    assert request.stage is Stage.WAITING
    bench.pool.run_one()
    assert bench.settled == [Succeeded(None)]
    assert (request.stage, len(bench.ledger)) == (Stage.SETTLED, 0)


def test_eta_waits_here_and_then_runs(bench: Bench) -> None:
    request = bench.receive(eta=bench.later(5))
    assert (request.stage, bench.dispatcher.deferred, len(bench.pool.runs)) == (Stage.DEFERRED, 1, 0)
    bench.advance(5)
    assert (request.stage, bench.dispatcher.deferred, len(bench.pool.runs)) == (Stage.WAITING, 0, 1)


def test_beyond_the_limit_etas_are_parked_with_their_own_message(bench: Bench) -> None:
    bench.receive(eta=bench.later(50))
    bench.receive(eta=bench.later(50))
    parked = bench.receive(eta=bench.later(50))
    assert parked.stage is Stage.SETTLED
    (outgoing,) = bench.parked
    assert outgoing.envelope is parked.delivery.envelope
    assert outgoing.delay == pytest.approx(50)
    assert len(bench.ledger) == 2


def test_far_etas_are_parked_for_brokers_give_up_on_who_keeps_a_message(bench: Bench) -> None:
    assert bench.receive(eta=bench.later(LONGEST_DEFERRAL + 1)).stage is Stage.SETTLED
    assert [outgoing.delay for outgoing in bench.parked] == [pytest.approx(LONGEST_DEFERRAL + 1)]


def test_nothing_is_parked_where_the_broker_cannot() -> None:
    bench = Bench(deferred_limit=0, can_park=False)
    assert bench.receive(eta=bench.later(50)).stage is Stage.DEFERRED


def test_rate_limited_request_reserves_one_start(bench: Bench) -> None:
    bench.admission.limit("tests.add", "1/s")
    for _ in range(3):
        bench.receive()
    bench.advance(1)
    assert len(bench.pool.runs) == 2
    bench.advance(1)
    assert len(bench.pool.runs) == 3


def test_rate_limited_requests_beyond_the_limit_come_back_one_after_another() -> None:
    bench = Bench(deferred_limit=2)
    bench.admission.limit("tests.add", "1/s")
    for _ in range(6):
        bench.receive()
    assert (len(bench.pool.runs), bench.dispatcher.deferred) == (1, 2)
    assert [outgoing.delay for outgoing in bench.parked] == pytest.approx([3.0, 4.0, 5.0])


def test_expired_while_it_waited_for_a_slot(bench: Bench) -> None:
    bench.receive(expires=bench.later(5))
    bench.clock.advance(6)
    bench.pool.run_one()
    assert bench.settled == [Revoked("expired")]


def test_expired_on_receipt_is_settled_in_a_slot_and_never_run(bench: Bench) -> None:
    bench.outcome = lambda request: pytest.fail("it was run")
    bench.receive(expires=bench.later(-1))
    assert bench.settled == [], "storing its result may block, which the loop must not"
    bench.pool.run_one()
    assert bench.settled == [Revoked("expired")]


def test_give_back_requeues_all_that_has_not_started(bench: Bench) -> None:
    waiting, deferred = bench.receive(tag=1), bench.receive(tag=2, eta=bench.later(5))
    running = bench.receive(tag=3)
    running.move(Move.START)
    bench.dispatcher.give_back()
    assert sorted(bench.source.settled) == [(1, Settlement.REQUEUE), (2, Settlement.REQUEUE)]
    assert (waiting.stage, deferred.stage, running.stage) == (Stage.SETTLED, Stage.SETTLED, Stage.RUNNING)
    assert bench.dispatcher.deferred == 0
    bench.advance(10)
    assert len(bench.pool.runs) == 2  # the timer of what was given back starts nothing


def test_due_after_it_was_given_back_does_nothing(bench: Bench) -> None:
    bench.receive(eta=bench.later(5))
    bench.clock.advance(5)
    bench.timer.run_due()  # the loop has been asked, and its turn comes after the connection is lost
    bench.dispatcher.give_back()
    bench.calls.popleft()()
    assert (bench.dispatcher.deferred, len(bench.pool.runs)) == (0, 0)


def test_closed_pool_gives_the_message_back(bench: Bench) -> None:
    bench.pool.open = False
    assert bench.receive().stage is Stage.SETTLED
    assert bench.source.settled == [(1, Settlement.REQUEUE)]


def test_late_outcome_is_dropped_and_said(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.receive()

    def abandoned(request: Request) -> Outcome:
        bench.dispatcher.abandon_running()
        return Succeeded("late")

    bench.outcome = abandoned
    bench.pool.run_one()
    assert bench.settled == [PutBack()]
    assert "ended after it was settled" in caplog.text


def test_put_back_running_interrupts_each_body(bench: Bench) -> None:
    request = bench.receive()
    run = bench.pool.runs[0]

    def interrupted(running: Request) -> Outcome:
        assert bench.dispatcher.put_back_running() == 1
        return running.stopping or Succeeded(None)

    bench.outcome = interrupted
    bench.pool.run_one()
    assert len(run.thrown) == 1
    assert (bench.settled, request.stage) == ([PutBack()], Stage.SETTLED)


def test_fault_of_our_own_gives_the_message_back(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.receive()

    def broken(request: Request) -> Outcome:
        raise RuntimeError("a bug in settlement")

    bench.outcome = broken
    bench.pool.run_one()
    assert bench.source.settled == [], "not at once: it would come back at once, and again"
    bench.advance(FAULT_DELAY)
    assert bench.source.settled == [(1, Settlement.REQUEUE)]
    assert len(bench.ledger) == 0
    assert "a bug in settlement" in caplog.text
