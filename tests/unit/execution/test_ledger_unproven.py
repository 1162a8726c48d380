"""The ledger's memory of finished work: a redelivery after a lost connection is acked, anything else runs."""

from __future__ import annotations

from greenworker.broker.delivery import Settlement
from greenworker.consumer.strategy import DefaultStrategy, TaskServices
from greenworker.execution.ledger import UNPROVEN_AGE, Ledger
from greenworker.execution.request import Request
from tests.support.execution import RecordingSource, make_delivery, make_request

LATER = 1_000.0


def finished(ledger: Ledger, task_id: str = "id-1", at: float = LATER, closed: bool = False) -> Request:
    """A request that ran and was acked."""
    request = make_request(task_id=task_id, source=RecordingSource(closed=closed))
    ledger.add(request)
    request.delivery.ack()
    ledger.finish(request, at)
    return request


def test_nothing_is_expected_again_while_the_connection_lives() -> None:
    ledger = Ledger()
    request = finished(ledger)
    assert len(ledger) == 0
    assert not ledger.was_finished(request.identity)


def test_what_finished_shortly_before_the_loss_is_known() -> None:
    ledger = Ledger()
    recent = finished(ledger, "recent", at=LATER - UNPROVEN_AGE)
    old = finished(ledger, "old", at=LATER - UNPROVEN_AGE - 1)
    ledger.connection_lost(LATER)
    assert ledger.was_finished(recent.identity)
    assert not ledger.was_finished(old.identity)
    assert not ledger.was_finished(("recent", 1)), "its retry is other work"


def test_what_finishes_while_there_is_no_connection_is_known() -> None:
    ledger = Ledger()
    assert ledger.was_finished(finished(ledger, closed=True).identity)


def test_same_id_sent_once_more_is_new_work() -> None:
    ledger = Ledger()
    request = finished(ledger)
    ledger.connection_lost(LATER)
    ledger.add(make_request())  # not redelivered, or the strategy would have asked first
    assert not ledger.was_finished(request.identity)


def test_memory_is_bounded() -> None:
    ledger = Ledger(unproven_limit=3)
    requests = [finished(ledger, str(number)) for number in range(5)]
    ledger.connection_lost(LATER)
    requests += [finished(ledger, str(number), closed=True) for number in range(5, 7)]
    assert [ledger.was_finished(request.identity) for request in requests] == [False] * 4 + [True] * 3


class Recorder:
    """Plays the dispatcher, and the log."""

    def __init__(self) -> None:
        self.admitted: list[Request] = []

    def admit(self, request: Request) -> None:
        self.admitted.append(request)

    def received(self, request: Request) -> None:
        """Not looked at."""

    def monotonic(self) -> float:
        return LATER


def test_strategy_acks_a_redelivery_of_finished_work_again() -> None:
    ledger, recorder, newer = Ledger(), Recorder(), RecordingSource()
    services = TaskServices(ledger, None, recorder, None, recorder, recorder)  # type: ignore[arg-type]
    request = finished(ledger)
    strategy = DefaultStrategy(request.task, services)
    ledger.connection_lost(LATER)
    for tag in (7, 8):  # this ack may be lost as well
        strategy(request.message, make_delivery(request.delivery.envelope, newer, tag=tag, redelivered=True))
    assert (newer.settled, recorder.admitted) == ([(7, Settlement.ACK), (8, Settlement.ACK)], [])
    strategy(request.message, make_delivery(request.delivery.envelope, newer, tag=9))
    assert [admitted.delivery.tag for admitted in recorder.admitted] == [9]
