"""Publishing with the broker's confirmation: when ``publish`` returns, the messages are on their queues.

Any greenlet or thread may publish. A publisher keeps a small, bounded set of connections, each used by one caller at a
time, so that neither the loop's connection nor a thousand tasks' sockets are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from greenworker.broker.connection import (
    SQLITE_SCHEME,
    ConnectionOptions,
    check_driver,
    database_path,
    is_amqp,
    is_redis,
    scheme_of,
)
from greenworker.broker.delivery import Delivery, Envelope, QueueSpec


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message and where it goes. ``queue``, where known, is declared before the first message to it."""

    envelope: Envelope
    routing_key: str
    exchange: str = ""
    queue: QueueSpec | None = None
    delay: float = 0.0  # seconds that the broker keeps it before it reaches its queue (where can_park)
    mandatory: bool = True  # that no queue takes it is an error; else nobody is there who wants it


@dataclass(frozen=True, slots=True)
class Replacement:
    """A message that takes the place of a delivery: a retry, a dead letter, a parked ETA."""

    delivery: Delivery
    outgoing: Outgoing


class Publisher(Protocol):
    """What producers, retries, dead letters and parked messages go through."""

    can_park: bool  # the broker can keep a message for Outgoing.delay seconds

    @property
    def blocked(self) -> str | None:
        """Why the broker takes no messages at the moment: RabbitMQ's alarms, a Redis that is full or read-only."""

    def publish(self, messages: Sequence[Outgoing], timeout: float | None = None) -> None:
        """Publish all and wait until the broker has confirmed each.

        Raises PublishError after ``timeout`` seconds (None: the publisher's own); messages that were confirmed until
        then stay published.
        """

    def replace(self, replacements: Sequence[Replacement], timeout: float | None = None) -> None:
        """Publish as above, and only then ack the deliveries; one atomic step where the broker has one."""

    def close(self) -> None:
        """Close the connections."""


@dataclass(frozen=True, slots=True)
class PublisherOptions:
    """Bounds of a publisher; seconds and counts. The last three concern the embedded broker's file alone."""

    timeout: float = 10.0
    connections: int = 4
    synchronous: str = "normal"
    file_group: str | None = None
    lease_timeout: float = 60.0


def make_publisher(urls: Sequence[str], connecting: ConnectionOptions, options: PublisherOptions) -> Publisher:
    """The publisher for a failover list of URLs, all of one kind (the first one's)."""
    if is_amqp(urls[0]):
        from greenworker.broker.amqp.publisher import AmqpPublisher

        return AmqpPublisher(urls, connecting, options)
    if scheme_of(urls[0]) == SQLITE_SCHEME:
        from greenworker.broker.sqlite.publisher import SqlitePublisher

        return SqlitePublisher(database_path(urls[0]), options)
    if is_redis(urls[0]):
        check_driver(urls[0])
        from greenworker.broker.redis.publisher import RedisPublisher

        return RedisPublisher(urls, connecting, options)
    from greenworker.broker.kombu import KombuPublisher

    return KombuPublisher(urls, connecting, options)
