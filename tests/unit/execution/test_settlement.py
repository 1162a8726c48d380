"""Settlement: for each outcome and acks policy, the stored state and what becomes of the delivery, in that order."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from greenworker.broker.delivery import Settlement
from greenworker.broker.publisher import Replacement
from greenworker.broker.replacer import Fate
from greenworker.errors import NotRegistered, Retry
from greenworker.execution.outcome import (
    Failed,
    Ignored,
    PutBack,
    Rejected,
    Retried,
    Revoked,
    Succeeded,
    TimedOut,
)
from greenworker.execution.request import Stage
from greenworker.execution.settlement import RULES
from greenworker.protocol.message import decode_task
from tests.support.execution import RecordingSource, make_delivery, make_request
from tests.support.settling import Bench


@pytest.fixture
def bench(caplog: pytest.LogCaptureFixture) -> Bench:
    caplog.set_level(logging.INFO)  # before the TaskLog, which asks once whether anybody listens
    return Bench()


ERROR = ValueError("wrong")
LATE = {
    "succeeded": (Succeeded(4), ["SUCCESS"], Settlement.ACK),
    "failed": (Failed(ERROR, "Traceback ..."), ["FAILURE"], Settlement.ACK),
    "timed out": (TimedOut(3.0), ["FAILURE"], Settlement.ACK),
    "retried": (Retried(Retry(exc=ERROR, when=5.0), ""), ["RETRY"], Settlement.ACK),
    "revoked": (Revoked("expired"), ["REVOKED"], Settlement.ACK),
    "ignored": (Ignored(), [], Settlement.ACK),
    "rejected": (Rejected("no", requeue=False), ["FAILURE"], Settlement.ACK),
    "rejected, requeue": (Rejected("no", requeue=True), [], Settlement.REQUEUE),
    "put back": (PutBack(), [], Settlement.REQUEUE),
}


def test_every_outcome_has_a_rule() -> None:
    assert set(RULES) == {type(outcome) for outcome, _, _ in LATE.values()}


@pytest.mark.parametrize("name", LATE)
def test_late_ack(bench: Bench, name: str) -> None:
    outcome, states, settlement = LATE[name]
    request = bench.settle(outcome)
    assert bench.states == states
    assert bench.settlements == [settlement]
    assert request.stage is Stage.SETTLED
    assert len(bench.ledger) == 0


@pytest.mark.parametrize("name", LATE)
def test_early_ack_settles_once_and_first(bench: Bench, name: str) -> None:
    outcome, states, _ = LATE[name]
    bench.settle(outcome, acks_late=False)
    assert bench.settlements == [Settlement.ACK]
    assert bench.states == (["FAILURE"] if isinstance(outcome, PutBack) else states)
    assert len(bench.ledger) == 0


def test_put_back_of_an_early_ack_fails_as_lost(bench: Bench) -> None:
    bench.settle(PutBack(), acks_late=False)
    assert bench.results.documents[0]["result"]["exc_type"] == "TaskLostError"


def test_ack_waits_for_the_stored_result(bench: Bench) -> None:
    bench.results.held = True
    request = bench.settle(Succeeded(4))
    assert (bench.settlements, request.stage, len(bench.ledger)) == ([], Stage.FINISHED, 1)
    bench.results.release()
    assert (bench.settlements, request.stage, len(bench.ledger)) == ([Settlement.ACK], Stage.SETTLED, 0)


def test_retry_is_the_same_task_once_more(bench: Bench) -> None:
    bench.settle(Retried(Retry(exc=ERROR, when=5.0), ""), task_id="abc", retries=1, args=[1, 2])
    (replacement,) = bench.replacer.replacements
    message = decode_task(replacement.outgoing.envelope, {"json"})
    assert (message.id, message.retries, list(message.args)) == ("abc", 2, [1, 2])
    assert message.eta is not None
    assert replacement.outgoing.routing_key == "celery"


def test_rejected_message_is_buried_unchanged(bench: Bench) -> None:
    request = bench.settle(Rejected("not mine", requeue=False))
    (replacement,) = bench.replacer.replacements
    assert replacement.outgoing.routing_key == "celery.dead"
    assert replacement.outgoing.envelope.body == request.delivery.envelope.body
    assert "not mine" in str(replacement.outgoing.envelope.headers)


@pytest.mark.parametrize("ignore", [True, False])
def test_ignore_result_is_the_messages_word_first(bench: Bench, ignore: bool) -> None:
    bench.app.tasks["tests.add"].ignore_result = not ignore
    bench.settle(Succeeded(4), ignore_result=ignore)
    assert bench.states == ([] if ignore else ["SUCCESS"])
    assert bench.settlements == [Settlement.ACK]


def test_result_that_cannot_be_encoded_is_a_failure_that_says_so(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.settle(Succeeded(object()))
    (document,) = bench.results.documents
    assert document["status"] == "FAILURE"
    assert document["result"]["exc_type"] == "UnstorableResultError"
    assert "id-1" in caplog.text
    assert bench.settlements == [Settlement.ACK]


def test_track_started_leaves_a_started_result(bench: Bench) -> None:
    bench.app.tasks["tests.add"].track_started = True
    bench.settle(Succeeded(4))
    assert bench.states == ["STARTED", "SUCCESS"]


def test_expected_exceptions_are_no_errors_in_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.settle(Failed(ERROR, "", expected=True))
    assert [record.levelname for record in caplog.records] == ["INFO"]


RETRIED = Retried(Retry(exc=ERROR, when=5.0), "")


def adopting(bench: Bench, fates: list[Fate]) -> tuple[RecordingSource, Callable[[Replacement], Fate]]:
    """While the first replacement is on its way, its connection is lost and its delivery comes again."""
    newer = RecordingSource()

    def before(replacement: Replacement) -> Fate:
        if len(bench.replacer.replacements) == 1:
            again = make_delivery(replacement.delivery.envelope, newer, tag=9, redelivered=True)
            assert bench.ledger.adopt(("id-1", 0), again) is not None
        return fates.pop(0)

    return newer, before


def test_redelivery_while_the_retry_was_published_is_acked(bench: Bench) -> None:
    newer, bench.replacer.before = adopting(bench, [Fate.PUBLISHED])
    bench.settle(RETRIED)
    assert newer.settled == [(9, Settlement.ACK)]
    assert (len(bench.replacer.replacements), len(bench.ledger)) == (1, 0)


def test_redelivery_while_the_retry_was_dropped_is_replaced_in_its_turn(bench: Bench) -> None:
    newer, bench.replacer.before = adopting(bench, [Fate.DROPPED, Fate.PUBLISHED])
    bench.settle(RETRIED)
    assert newer.settled == [(9, Settlement.ACK)]
    assert (len(bench.replacer.replacements), len(bench.ledger)) == (2, 0)


def test_dropped_retry_is_forgotten_for_its_task_comes_again(bench: Bench) -> None:
    bench.replacer.before = lambda replacement: Fate.DROPPED
    bench.settle(RETRIED)
    assert (bench.settlements, len(bench.ledger)) == ([], 0)


def test_retry_that_cannot_be_sent_is_a_failure(bench: Bench) -> None:
    bench.replacer.before = lambda replacement: Fate.UNSENDABLE
    bench.settle(RETRIED)
    assert bench.states == ["RETRY", "FAILURE"]
    assert (bench.settlements, len(bench.ledger)) == ([Settlement.ACK], 0)


@pytest.mark.parametrize("ignored", [False, True])
def test_message_without_a_task_fails_and_is_buried(bench: Bench, ignored: bool) -> None:
    request = make_request(app=bench.app, source=bench.source, task_id="abc", ignore_result=ignored)
    bench.settler.refuse(request.message, request.delivery, NotRegistered("no task is named 'x'"))
    assert bench.states == ([] if ignored else ["FAILURE"])
    (replacement,) = bench.replacer.replacements
    assert replacement.outgoing.routing_key == "celery.dead"
    assert bench.settlements == [Settlement.ACK]
