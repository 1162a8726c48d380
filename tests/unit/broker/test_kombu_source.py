"""The plain kombu path, on kombu's own memory and filesystem transports."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from greenworker.broker.connection import ConnectionLostError, ConnectionOptions
from greenworker.broker.delivery import Delivery, Envelope, QueueSpec
from greenworker.broker.kombu import KombuPublisher, KombuSource
from greenworker.broker.publisher import Outgoing, PublisherOptions, Replacement
from greenworker.errors import BrokerError, PublishError
from greenworker.green.greens import library

CONNECTING = ConnectionOptions()


def envelope(number: int) -> Envelope:
    return Envelope(
        json.dumps([[number], {}, {}]).encode(),
        "application/json",
        "utf-8",
        {"id": str(number), "task": "shop.add"},
        {"correlation_id": str(number), "priority": 3, "delivery_mode": 2},
    )


@pytest.fixture
def queue() -> QueueSpec:
    return QueueSpec(f"q{uuid.uuid4().hex}")


@pytest.fixture(params=["memory", "filesystem"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "filesystem":
        from kombu.transport import filesystem

        monkeypatch.setattr(filesystem.Channel, "data_folder_in", str(tmp_path), raising=False)
        monkeypatch.setattr(filesystem.Channel, "data_folder_out", str(tmp_path), raising=False)
        monkeypatch.setattr(filesystem.Channel, "control_folder", tmp_path / "control", raising=False)
        monkeypatch.setattr(filesystem.Channel, "processed_folder", str(tmp_path / "done"), raising=False)
    return f"{request.param}://"


@pytest.fixture
def publisher(url: str) -> Iterator[KombuPublisher]:
    made = KombuPublisher([url], CONNECTING, PublisherOptions(timeout=2.0))
    yield made
    made.close()


@pytest.fixture
def open_source(url: str) -> Iterator[Callable[[list[Delivery]], KombuSource]]:
    opened: list[KombuSource] = []

    def make(got: list[Delivery]) -> KombuSource:
        source = KombuSource.connect(url, CONNECTING, got.append, library("threads").make_waiter())
        opened.append(source)
        return source

    yield make
    for source in opened:
        source.close()


def pump_until(source: KombuSource, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        source.pump(0.2)


def test_a_message_comes_as_it_was_sent(
    publisher: KombuPublisher, open_source: Callable[[list[Delivery]], KombuSource], queue: QueueSpec
) -> None:
    publisher.publish([Outgoing(envelope(7), queue.name, queue=queue)])
    got: list[Delivery] = []
    source = open_source(got)
    source.start([queue], 10)
    pump_until(source, lambda: bool(got))
    delivery = got[0]
    sent = envelope(7)
    assert json.loads(delivery.envelope.body) == [[7], {}, {}]
    assert delivery.envelope.content_type == sent.content_type
    assert delivery.envelope.content_encoding == sent.content_encoding
    assert delivery.envelope.headers == sent.headers
    assert {key: delivery.envelope.properties[key] for key in sent.properties} == dict(sent.properties)
    assert (delivery.queue, delivery.routing_key, delivery.exchange) == (queue.name, queue.name, "")
    assert not delivery.redelivered
    assert source.unsettled == 1


def test_no_more_than_the_prefetch_are_unsettled(
    publisher: KombuPublisher, open_source: Callable[[list[Delivery]], KombuSource], queue: QueueSpec
) -> None:
    publisher.publish([Outgoing(envelope(number), queue.name, queue=queue) for number in range(20)])
    got: list[Delivery] = []
    source = open_source(got)
    source.start([queue], 4)
    pump_until(source, lambda: len(got) == 4)
    source.pump(0.2)
    assert source.unsettled == len(got) == 4
    source.set_prefetch(6)
    pump_until(source, lambda: len(got) == 6)
    settled = 0
    while settled < 20:
        for delivery in got[settled:]:
            delivery.ack()
        settled = len(got)
        pump_until(source, lambda at=settled: len(got) > at or at == 20)
        assert source.unsettled <= 6
    source.flush()
    assert source.unsettled == 0


def test_requeued_and_unsettled_messages_come_again(
    publisher: KombuPublisher, open_source: Callable[[list[Delivery]], KombuSource], queue: QueueSpec
) -> None:
    publisher.publish([Outgoing(envelope(number), queue.name, queue=queue) for number in range(3)])
    first: list[Delivery] = []
    source = open_source(first)
    source.start([queue], 3)
    pump_until(source, lambda: len(first) == 3)
    first[0].ack()
    source.stop()
    first[1].requeue()
    source.close()
    assert source.closed
    second: list[Delivery] = []
    again = open_source(second)
    again.start([queue], 3)
    pump_until(again, lambda: len(second) == 2)
    kept = {delivery.envelope.headers["id"] for delivery in first[1:]}  # the filesystem keeps no order
    assert {delivery.envelope.headers["id"] for delivery in second} == kept
    with pytest.raises(ConnectionLostError):
        source.pump(0.1)


def test_a_replacement_takes_the_place_of_its_delivery(
    publisher: KombuPublisher, open_source: Callable[[list[Delivery]], KombuSource], queue: QueueSpec
) -> None:
    publisher.publish([Outgoing(envelope(1), queue.name, queue=queue)])
    got: list[Delivery] = []
    source = open_source(got)
    source.start([queue], 1)
    pump_until(source, lambda: bool(got))
    publisher.replace([Replacement(got[0], Outgoing(envelope(2), queue.name, queue=queue))])
    pump_until(source, lambda: len(got) == 2)
    assert got[1].envelope.headers["id"] == "2"
    assert source.unsettled == 1


def test_an_unknown_transport_is_told_as_a_broker_error() -> None:
    with pytest.raises(BrokerError, match=r"nosuch://.*\*\*\*"):
        KombuSource.connect("nosuch://user:secret@host", CONNECTING, print, library("threads").make_waiter())


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)  # as if it were not installed
    with pytest.raises(BrokerError, match="package that is not installed: redis"):
        KombuSource.connect("redis://user:secret@host", CONNECTING, print, library("threads").make_waiter())


def test_a_broker_that_is_not_there_ends_a_publish_in_time() -> None:
    publisher = KombuPublisher(["redis://127.0.0.1:1/0"], ConnectionOptions(connect_timeout=0.2), PublisherOptions())
    began = time.monotonic()
    with pytest.raises(PublishError, match="not published"):
        publisher.publish([Outgoing(envelope(1), "celery")], timeout=0.5)
    assert time.monotonic() - began < 5
