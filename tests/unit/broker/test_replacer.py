"""The replacer: publishes in the background, acks after the confirm, keeps trying, drops what comes again anyway."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from greenworker.broker.delivery import Settlement
from greenworker.broker.publisher import Outgoing, Replacement
from greenworker.broker.replacer import Companion, Fate, Replacer
from greenworker.errors import EncodeError, PublishError
from tests.support.execution import RecordingPublisher, RecordingSource, make_request


@pytest.fixture
def publisher() -> RecordingPublisher:
    return RecordingPublisher()


@pytest.fixture
def replacer(publisher: RecordingPublisher) -> Iterator[Replacer]:
    replacer = Replacer(publisher, retry_delay=0.001)
    replacer.start()
    yield replacer
    replacer.stop()


class Told(threading.Event):
    """Set when the fate is told, and keeps it."""

    fate: Fate | None = None

    def tell(self, fate: Fate) -> None:
        assert self.fate is None, "told twice"
        self.fate = fate
        self.set()


def put(replacer: Replacer, source: RecordingSource) -> Told:
    delivery, done = make_request(source=source).delivery, Told()
    replacer.put(Replacement(delivery, Outgoing(delivery.envelope, "celery.dead")), done.tell)
    return done


def test_publishes_then_acks(replacer: Replacer, publisher: RecordingPublisher) -> None:
    source = RecordingSource()
    done = put(replacer, source)
    assert done.wait(10)
    assert done.fate is Fate.PUBLISHED
    assert len(publisher.sent) == 1
    assert source.settled == [(1, Settlement.ACK)]


def test_tries_again_when_the_broker_refuses(replacer: Replacer, publisher: RecordingPublisher) -> None:
    publisher.errors = [PublishError("no"), PublishError("still no")]
    source = RecordingSource()
    assert put(replacer, source).wait(10)
    assert publisher.batches == [1, 1, 1]
    assert source.settled == [(1, Settlement.ACK)]


def test_drops_what_the_broker_delivers_again(publisher: RecordingPublisher) -> None:
    replacer, source = Replacer(publisher), RecordingSource(closed=True)
    done = put(replacer, source)
    replacer.start()
    assert done.wait(10)
    replacer.stop()
    assert (publisher.sent, source.settled, done.fate) == ([], [], Fate.DROPPED)


def test_one_refused_message_does_not_hold_up_the_others() -> None:
    class Choosy(RecordingPublisher):
        def replace(self, replacements: list[Replacement], timeout: float | None = None) -> None:
            if any(replacement.outgoing.routing_key == "refused" for replacement in replacements):
                raise PublishError("no queue takes it")
            super().replace(replacements, timeout)

    replacer, events = Replacer(Choosy(), retry_delay=0.001), []
    for number in range(3):
        delivery, done = make_request().delivery, Told()
        key = "refused" if number == 0 else "fine"
        replacer.put(Replacement(delivery, Outgoing(delivery.envelope, key)), done.tell)
        events.append(done)
    replacer.start()
    assert all(done.wait(10) for done in events[1:])
    assert not events[0].is_set()
    replacer.stop()


def test_stop_writes_what_waits_and_is_harmless_twice(publisher: RecordingPublisher) -> None:
    replacer = Replacer(publisher)
    replacer.stop()
    replacer.start()
    done = put(replacer, RecordingSource())
    replacer.stop()
    replacer.stop()
    assert done.is_set()


def test_confirmed_ones_of_a_failed_batch_are_not_sent_again(publisher: RecordingPublisher) -> None:
    replacer, source, sent = Replacer(publisher, retry_delay=0.001), RecordingSource(), []

    def replace(replacements: list[Replacement], timeout: float | None = None) -> None:
        sent.extend(replacement.outgoing.routing_key for replacement in replacements)
        for replacement in replacements[1:]:
            replacement.delivery.ack()
        if len(replacements) > 1:
            error = PublishError("the first was refused")
            error.unpublished = [replacements[0].outgoing]
            raise error
        replacements[0].delivery.ack()

    publisher.replace = replace  # type: ignore[method-assign]
    told = []
    for number in range(3):
        delivery, done = make_request(source=source, tag=number).delivery, Told()
        replacer.put(Replacement(delivery, Outgoing(delivery.envelope, f"key-{number}")), done.tell)
        told.append(done)
    replacer.start()
    assert all(done.wait(10) for done in told)
    replacer.stop()
    assert sent == ["key-0", "key-1", "key-2", "key-0"]


@pytest.mark.parametrize(
    ("error", "fate"),
    [(EncodeError("no"), Fate.UNSENDABLE), (TypeError("no"), Fate.UNSENDABLE), (OSError("away"), Fate.PUBLISHED)],
)
def test_nothing_that_is_raised_ends_the_thread(
    replacer: Replacer, publisher: RecordingPublisher, error: Exception, fate: Fate
) -> None:
    publisher.errors = [error]
    done, after = put(replacer, RecordingSource()), put(replacer, RecordingSource())
    assert done.wait(10)
    assert after.wait(10)
    assert {done.fate, after.fate} <= {fate, Fate.PUBLISHED}


def test_settlement_that_fails_does_not_end_the_thread(replacer: Replacer) -> None:
    delivery = make_request().delivery

    def broken(fate: Fate) -> None:
        raise RuntimeError("a bug")

    replacer.put(Replacement(delivery, Outgoing(delivery.envelope, "key")), broken)
    assert put(replacer, RecordingSource()).wait(10)


def test_a_companion_goes_out_and_leaves_its_delivery(replacer: Replacer, publisher: RecordingPublisher) -> None:
    source = RecordingSource()
    delivery, done = make_request(source=source).delivery, Told()
    publisher.errors = [PublishError("no")]
    replacer.put(Companion(delivery, Outgoing(delivery.envelope, "links")), done.tell)
    assert done.wait(10)
    assert done.fate is Fate.PUBLISHED
    assert [outgoing.routing_key for outgoing in publisher.sent] == ["links"]
    assert source.settled == []


def test_a_companion_that_cannot_be_sent_does_not_hold_up_replacements(publisher: RecordingPublisher) -> None:
    class Picky(RecordingPublisher):
        def publish(self, messages: Sequence[Outgoing], timeout: float | None = None) -> None:
            if any(outgoing.routing_key == "links" for outgoing in messages):
                raise EncodeError("a header")
            super().publish(messages, timeout)

    replacer, source, link, lost = Replacer(Picky(), retry_delay=0.001), RecordingSource(), Told(), Told()
    delivery = make_request(source=source).delivery
    replacer.put(Companion(delivery, Outgoing(delivery.envelope, "links")), link.tell)
    done = put(replacer, source)
    gone = RecordingSource(closed=True)
    replacer.put(Companion(make_request(source=gone).delivery, Outgoing(delivery.envelope, "links")), lost.tell)
    replacer.start()
    assert done.wait(10) and link.wait(10) and lost.wait(10)
    replacer.stop()
    assert (link.fate, done.fate, lost.fate) == (Fate.UNSENDABLE, Fate.PUBLISHED, Fate.DROPPED)
