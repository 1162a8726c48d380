"""The ledger: what is in hand, and redeliveries of it."""

from __future__ import annotations

import threading

from greenworker.broker.delivery import Settlement
from greenworker.execution.ledger import Ledger
from greenworker.execution.request import Move, Stage
from tests.support.execution import RecordingSource, make_delivery, make_request


def test_holds_requests_until_they_are_removed() -> None:
    ledger, request = Ledger(), make_request()
    ledger.add(request)
    assert len(ledger) == 1
    assert ledger.at(Stage.RECEIVED) == [request]
    assert ledger.at(Stage.RUNNING) == []
    ledger.remove(request)
    ledger.remove(request)
    assert len(ledger) == 0


def test_redelivery_of_what_is_in_hand_is_adopted() -> None:
    ledger, request, newer = Ledger(), make_request(), RecordingSource()
    ledger.add(request)
    again = make_delivery(request.delivery.envelope, newer, tag=9, redelivered=True)
    assert ledger.adopt(request.identity, again) is request
    request.delivery.ack()
    assert newer.settled == [(9, Settlement.ACK)]


def test_redelivery_of_what_was_acked_early_is_acked() -> None:
    ledger, request, newer = Ledger(), make_request(acks_late=False), RecordingSource()
    ledger.add(request)
    request.delivery.ack()
    ledger.adopt(request.identity, make_delivery(request.delivery.envelope, newer, tag=9, redelivered=True))
    assert newer.settled == [(9, Settlement.ACK)]


def test_another_retry_is_other_work() -> None:
    ledger, request = Ledger(), make_request(retries=1)
    ledger.add(request)
    assert ledger.adopt((request.message.id, 2), request.delivery) is None


def test_removing_an_older_twin_keeps_the_newer_one_findable() -> None:
    ledger, older, newer = Ledger(), make_request(tag=1), make_request(tag=2)
    ledger.add(older)
    ledger.add(newer)
    ledger.remove(older)
    assert ledger.adopt(newer.identity, newer.delivery) is newer


def test_wait_empty_is_woken_by_the_last_removal() -> None:
    ledger, request = Ledger(), make_request()
    assert ledger.wait_empty(0.0)
    ledger.add(request)
    assert not ledger.wait_empty(0.0)
    threading.Timer(0.02, ledger.remove, [request]).start()
    assert ledger.wait_empty(10.0)


def test_stage_lookup_follows_moves() -> None:
    ledger, request = Ledger(), make_request()
    ledger.add(request)
    request.move(Move.SUBMIT)
    request.move(Move.START)
    assert ledger.at(Stage.WAITING, Stage.RUNNING) == [request]
