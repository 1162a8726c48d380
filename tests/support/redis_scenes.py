"""What the Redis tests share: a source that is pumped by the test itself, a publisher, a look at the keys."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from greenworker.broker.connection import ConnectionOptions
from greenworker.broker.delivery import Delivery, Envelope, QueueSpec
from greenworker.broker.publisher import Outgoing, PublisherOptions
from greenworker.broker.redis.keys import PARKED, UNACKED, UNACKED_INDEX, queue_keys
from greenworker.broker.redis.message import unpack
from greenworker.broker.redis.publisher import RedisPublisher
from greenworker.broker.redis.source import RedisSource
from greenworker.broker.source import SourceOptions
from greenworker.green.native import NativeWaiter
from tests.support.amqp_scenes import envelope, number_of
from tests.support.redis_server import client

QUEUE = QueueSpec("q")
DEADLINE = 20.0


class Consumer:
    """A source and what it has delivered, with plain threads."""

    def __init__(
        self,
        url: str,
        queues: Sequence[QueueSpec] = (QUEUE,),
        prefetch: int = 100,
        *,
        connecting: ConnectionOptions | None = None,
        **options: Any,
    ) -> None:
        self.got: list[Delivery] = []
        waiter = NativeWaiter()
        self.source = RedisSource(
            url, connecting or ConnectionOptions(), self.got.append, waiter, SourceOptions(**options)
        )
        self.source.start(queues, prefetch)

    @property
    def numbers(self) -> list[int]:
        return [number_of(delivery) for delivery in self.got]

    def pump_until(self, condition: Callable[[], object], timeout: float = DEADLINE) -> None:
        """Pump until ``condition`` holds; fails after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"nothing came of it within {timeout} s; delivered so far: {len(self.got)}"
            self.source.pump(min(left, 0.2))

    def pump_for(self, seconds: float) -> None:
        """Pump for a while: nothing more should come, or something must go on meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.source.pump(min(left, 0.1))

    def take(self, count: int, timeout: float = DEADLINE) -> list[Delivery]:
        """The next ``count`` deliveries."""
        self.pump_until(lambda: len(self.got) >= count, timeout)
        taken, self.got[:] = self.got[:count], self.got[count:]
        return taken

    def ack_all(self) -> None:
        for delivery in self.got:
            delivery.ack()
        self.got.clear()
        self.source.flush()

    def die(self) -> None:
        """As a killed process: its connections close, and it says no farewell."""
        self.source._line.close()
        self.source.closed = True
        self.source._keeper.stop()

    def close(self) -> None:
        self.source.close()


@contextlib.contextmanager
def consuming(url: str, *arguments: Any, **options: Any) -> Iterator[Consumer]:
    """A Consumer that is closed at the end."""
    consumer = Consumer(url, *arguments, **options)
    try:
        yield consumer
    finally:
        consumer.close()


def open_publisher(*urls: str, timeout: float = 10.0, connections: int = 4, **connecting: Any) -> RedisPublisher:
    """A publisher for Redis URLs."""
    return RedisPublisher(urls, ConnectionOptions(**connecting), PublisherOptions(timeout, connections))


def outgoing(number: int, queue: QueueSpec = QUEUE, delay: float = 0.0, **properties: Any) -> Outgoing:
    """A numbered message to ``queue``."""
    return Outgoing(
        envelope(number, **properties),
        queue.routing_key or queue.name,
        exchange=queue.exchange,
        queue=queue,
        delay=delay,
    )


def publish(url: str, numbers: Sequence[int], queue: QueueSpec = QUEUE, **properties: Any) -> None:
    """Publish numbered messages through a publisher of its own."""
    publisher = open_publisher(url)
    try:
        publisher.publish([outgoing(number, queue, **properties) for number in numbers])
    finally:
        publisher.close()


class Keys:
    """A look at a database, with redis-py's own client."""

    def __init__(self, url: str) -> None:
        self.redis = client(url)

    def waiting(self, queue: str = "q") -> int:
        """Messages that nobody has."""
        return sum(self.redis.llen(key) for key in queue_keys(queue))

    @property
    def unacked(self) -> int:
        """Messages in hand, and as many in the index, as they are at one moment."""
        messages, indexed = self.redis.pipeline().hlen(UNACKED).zcard(UNACKED_INDEX).execute()
        assert messages == indexed
        return int(messages)

    def messages(self, queue: str = "q") -> list[Envelope]:
        """Those that wait and those that are in hand, as they are at one moment."""
        with self.redis.pipeline() as pipeline:
            for key in queue_keys(queue):
                pipeline.lrange(key, 0, -1)
            *lists, entries = pipeline.hvals(UNACKED).execute()
        taken = [json.dumps(json.loads(entry)[0]).encode() for entry in entries]
        return [unpack(raw, queue).envelope for raw in itertools.chain(*lists, taken)]

    @property
    def parked(self) -> int:
        """Messages that wait for their time."""
        return int(self.redis.zcard(PARKED))

    def left(self) -> set[str]:
        """Names of all keys but for notes on batches, which expire."""
        names = {key.decode() for key in self.redis.keys("*")}
        return {name for name in names if not name.startswith("greenworker:published:")}
