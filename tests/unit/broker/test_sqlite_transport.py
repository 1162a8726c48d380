"""The embedded broker as a kombu transport: producers, consumers, exchanges, leases, and both paths on one file."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest
from kombu.exceptions import ChannelError

import greenworker.broker.sqlite  # noqa: F401 - registers the transport
from greenworker.broker.connection import ConnectionOptions, open_connection
from greenworker.broker.delivery import QueueSpec
from greenworker.errors import StateFolderError
from tests.support.queue_file import Consumer, outgoing, publish


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


def connect(path: Path, **options: Any) -> kombu.Connection:
    connection = kombu.Connection(f"sqlite:///{path}", transport_options={"create": True, **options})
    connection.connect()
    return connection


@pytest.fixture
def connection(path: Path) -> Iterator[kombu.Connection]:
    with connect(path) as connection:
        yield connection


class Received:
    """A kombu consumer and what it got."""

    def __init__(self, connection: kombu.Connection, *queues: kombu.Queue, prefetch: int = 0, no_ack: bool = False):
        self.connection = connection
        self.messages: list[kombu.Message] = []
        self.channel = connection.channel()
        self.consumer = kombu.Consumer(self.channel, queues, on_message=self.messages.append, no_ack=no_ack)
        if prefetch:
            self.consumer.qos(prefetch_count=prefetch)
        self.consumer.consume()

    def drain(self, count: int, timeout: float = 5.0) -> list[kombu.Message]:
        deadline = time.monotonic() + timeout
        while len(self.messages) < count:
            self.connection.drain_events(timeout=max(0.01, deadline - time.monotonic()))
        return self.messages

    def nothing_more(self) -> bool:
        before = len(self.messages)
        with pytest.raises(socket.timeout):
            self.connection.drain_events(timeout=0.05)
        return len(self.messages) == before

    def bodies(self) -> list[Any]:
        return [message.payload for message in self.messages]


QUEUE = kombu.Queue("work", kombu.Exchange("work"), "work")


def send(connection: kombu.Connection, *bodies: Any, **options: Any) -> None:
    producer = connection.Producer()
    for body in bodies:
        producer.publish(body, **{"exchange": "work", "routing_key": "work", "declare": [QUEUE], **options})


def test_what_is_sent_arrives_as_it_was(connection: kombu.Connection) -> None:
    received = Received(connection, QUEUE)
    send(connection, {"n": 1}, headers={"h": "ü"}, correlation_id="c", priority=2)
    send(connection, {"n": 2}, compression="zlib")
    send(connection, b"\x00\xff", serializer="raw")
    first, second, third = received.drain(3)
    assert first.headers["h"] == "ü"
    assert first.properties["correlation_id"] == "c"
    assert first.delivery_info == {"exchange": "work", "routing_key": "work", "redelivered": False}
    assert first.payload == {"n": 1}
    assert second.payload == {"n": 2}
    assert third.body == b"\x00\xff"


def test_a_connection_makes_no_file_unless_told_to(path: Path) -> None:
    with pytest.raises(StateFolderError, match="does not exist"):
        open_connection(f"sqlite:///{path}", ConnectionOptions())
    assert not path.exists()


def test_prefetch_limits_what_is_out(connection: kombu.Connection) -> None:
    received = Received(connection, QUEUE, prefetch=2)
    send(connection, *range(4))
    received.drain(2)
    assert received.nothing_more()
    received.messages[0].ack()
    received.drain(3)
    assert received.nothing_more()
    assert received.bodies() == [0, 1, 2]


def test_acked_is_gone_rejected_is_gone_requeued_comes_again(connection: kombu.Connection) -> None:
    received = Received(connection, QUEUE)
    send(connection, "ack", "reject", "requeue")
    acked, rejected, requeued = received.drain(3)
    acked.ack()
    rejected.reject()
    requeued.requeue()
    again = received.drain(4)[3]
    assert again.payload == "requeue"
    assert again.delivery_info["redelivered"] is True
    again.ack()
    assert received.nothing_more()
    assert connection.default_channel.queue_declare("work", passive=True).message_count == 0


def test_closing_gives_back_what_is_not_settled_claimed_ahead_or_not(path: Path) -> None:
    with connect(path) as first:
        received = Received(first, QUEUE)
        send(first, *range(10))
        received.drain(3)[0].ack()
    with connect(path) as second:
        received = Received(second, QUEUE)
        assert sorted(message.payload for message in received.drain(9)) == list(range(1, 10))
        assert received.nothing_more()


def test_a_cancelled_consumer_gives_back_what_it_had_not_delivered(path: Path, connection: kombu.Connection) -> None:
    received = Received(connection, QUEUE)
    send(connection, *range(10))
    received.drain(1)
    received.consumer.cancel()
    with connect(path) as other:
        assert len(Received(other, QUEUE).drain(9)) == 9


def test_no_ack_consumers_take_for_good(path: Path, connection: kombu.Connection) -> None:
    received = Received(connection, QUEUE, no_ack=True)
    send(connection, *range(5))
    received.drain(5)
    connection.release()
    with connect(path) as second:
        assert Received(second, QUEUE).nothing_more()


def test_basic_get_takes_one(connection: kombu.Connection) -> None:
    send(connection, "one", "two")
    channel = connection.channel()
    message = channel.basic_get("work")
    assert kombu.message.Message.decode(message) == "one"
    channel.basic_ack(message.delivery_tag)
    assert channel.basic_get("work", no_ack=True) is not None
    assert channel.basic_get("work") is None


def test_a_lost_connection_of_a_live_process_is_found_by_its_lease(path: Path) -> None:
    dead = connect(path, lease_timeout=0.2)
    received = Received(dead, QUEUE)
    send(dead, "work")
    received.drain(1)
    with connect(path) as other:
        (again,) = Received(other, QUEUE).drain(1)
        assert again.delivery_info["redelivered"] is True
        received.messages[0].ack()  # stale: the row stays the other's, who gives it back
    with connect(path) as third:
        assert len(Received(third, QUEUE).drain(1)) == 1
    dead.release()


def test_priorities_follow_rabbitmq_a_higher_one_comes_first(connection: kombu.Connection) -> None:
    for priority in (0, 9, 3):
        send(connection, priority, priority=priority)
    received = Received(connection, QUEUE)
    received.drain(3)
    assert received.bodies() == [9, 3, 0]


@pytest.mark.parametrize(
    ("kind", "keys", "sent", "reached"),
    [
        ("direct", ["a", "b"], "a", [0]),
        ("topic", ["a.*", "#"], "a.b", [0, 1]),
        ("topic", ["a.*", "b.#"], "b", [1]),
        ("fanout", ["", ""], "anything", [0, 1]),
    ],
)
def test_exchanges_are_shared_between_connections(
    path: Path, connection: kombu.Connection, *, kind: str, keys: list[str], sent: str, reached: list[int]
) -> None:
    exchange = kombu.Exchange("shared", kind)
    queues = [kombu.Queue(f"q{number}", exchange, key) for number, key in enumerate(keys)]
    received = Received(connection, *queues)
    with connect(path) as other:  # it has not declared the exchange
        other.Producer().publish("x", exchange="shared", routing_key=sent)
    received.drain(len(reached))
    assert received.nothing_more()


def test_an_unbound_queue_gets_no_more(connection: kombu.Connection) -> None:
    exchange = kombu.Exchange("news", "fanout")
    stays, goes = kombu.Queue("stays", exchange), kombu.Queue("goes", exchange)
    received = Received(connection, stays, goes)
    goes(connection.default_channel).unbind_from(exchange)
    connection.Producer().publish("x", exchange="news")
    received.drain(1)
    assert received.nothing_more()
    assert [(queue, name) for queue, name, _ in connection.default_channel.list_bindings()] == [("stays", "news")]


def test_passive_declarations_ask_and_do_not_make(connection: kombu.Connection) -> None:
    channel = connection.default_channel
    for ask in (
        lambda: channel.queue_declare("missing", passive=True),
        lambda: channel.exchange_declare("no", passive=True),
    ):
        with pytest.raises(ChannelError, match="NOT_FOUND"):
            ask()
    send(connection, *range(3))
    assert channel.queue_declare("work", passive=True).message_count == 3


def test_purge_and_delete(connection: kombu.Connection) -> None:
    send(connection, *range(150))
    queue = QUEUE(connection.default_channel)
    assert queue.purge() == 150
    send(connection, 1)
    queue.delete(if_empty=True)
    assert connection.default_channel.queue_declare("work", passive=True).message_count == 1
    queue.delete()
    with pytest.raises(ChannelError):
        connection.default_channel.queue_declare("work", passive=True)
    assert not [binding for binding in connection.default_channel.list_bindings() if binding[0] == "work"]


def test_a_consumed_exclusive_queue_that_expired_comes_back_with_its_binding(path: Path) -> None:
    exchange = kombu.Exchange("broadcast", "fanout")
    queue = kombu.Queue("node", exchange, exclusive=True, expires=0.3)
    with connect(path) as connection, connect(path) as other:
        received = Received(connection, queue)
        time.sleep(0.4)  # the consumer stands still for longer than its queue lives
        with pytest.raises(socket.timeout):
            Received(other, kombu.Queue("another", exchange)).connection.drain_events(timeout=1.5)
        with pytest.raises(ChannelError):
            other.default_channel.queue_declare("node", passive=True)
        assert received.nothing_more()
        other.Producer().publish("hello", exchange="broadcast")
        assert received.drain(1)[0].payload == "hello"


def test_both_paths_serve_one_queue(path: Path) -> None:
    consumer = Consumer(path, [QueueSpec("work", exchange="work", routing_key="work")])
    with connect(path) as connection:
        send(connection, {"from": "kombu"}, headers={"task": "t"}, priority=4)
        (delivery,) = consumer.take(1)
        assert delivery.envelope.body == '{"from": "kombu"}'
        assert delivery.envelope.headers == {"task": "t"}
        assert (delivery.exchange, delivery.routing_key) == ("work", "work")
        assert delivery.envelope.properties["priority"] == 4
        assert "delivery_tag" not in delivery.envelope.properties
        delivery.ack()
        consumer.close()
        publish(path, outgoing('{"from": "us"}', QueueSpec("work"), priority=1))
        received = Received(connection, QUEUE)
        assert received.drain(1)[0].payload == {"from": "us"}


def test_parked_messages_reach_kombu_consumers_when_due(path: Path, connection: kombu.Connection) -> None:
    received = Received(connection, QUEUE)
    publish(path, outgoing('"late"', QueueSpec("work"), delay=0.3))
    started = time.monotonic()
    received.drain(1)
    assert 0.2 < time.monotonic() - started < 0.9


def test_simple_queues_work(connection: kombu.Connection) -> None:
    queue = connection.SimpleQueue("simple")
    queue.put({"x": 1})
    assert queue.qsize() == 1
    message = queue.get(timeout=5)
    assert message.payload == {"x": 1}
    message.ack()
    assert queue.qsize() == 0
    queue.close()
