"""What the AMQP tests' patched processes share: sources and publishers, messages, waiting with a deadline."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from greenworker.broker.amqp.declare import declare
from greenworker.broker.amqp.publisher import AmqpPublisher
from greenworker.broker.amqp.source import AmqpSource
from greenworker.broker.connection import ConnectionOptions, open_connection
from greenworker.broker.delivery import Delivery, Envelope, QueueSpec
from greenworker.broker.open import SourceOptions, make_source
from greenworker.broker.publisher import Outgoing, PublisherOptions
from greenworker.green.greens import library

DEADLINE = 30.0


def envelope(number: int, **properties: Any) -> Envelope:
    """A Celery message of protocol 2 with ``number`` as its id and only argument."""
    return Envelope(
        body=json.dumps([[number], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]).encode(),
        content_type="application/json",
        content_encoding="utf-8",
        headers={"id": str(number), "task": "shop.add", "retries": 0, "lang": "py", "eta": None},
        properties={"correlation_id": str(number), "priority": 0, "delivery_mode": 2, **properties},
    )


def number_of(delivery: Delivery) -> int:
    """The number that ``envelope`` was given."""
    return int(delivery.envelope.headers["id"])


def open_publisher(*urls: str, timeout: float = 10.0, connections: int = 4, **connecting: Any) -> AmqpPublisher:
    """A publisher for RabbitMQ URLs."""
    return AmqpPublisher(urls, ConnectionOptions(**connecting), PublisherOptions(timeout, connections))


def publish(url: str, queue: QueueSpec, numbers: Sequence[int], **properties: Any) -> None:
    """Declare ``queue`` and publish numbered messages to it."""
    connection = open_connection(url, ConnectionOptions())
    declare(connection.connection, queue)
    connection.release()
    publisher = open_publisher(url)
    for at in range(0, len(numbers), 500):
        publisher.publish(
            [Outgoing(envelope(number, **properties), queue.name, queue=queue) for number in numbers[at : at + 500]]
        )
    publisher.close()


def open_source(
    pool: str, url: str, on_delivery: Callable[[Delivery], None], *, strict_order: bool = False, **connecting: Any
) -> AmqpSource:
    """A source that waits the way of ``pool``."""
    options = SourceOptions(strict_order=strict_order)
    made = make_source(url, ConnectionOptions(**connecting), on_delivery, library(pool).make_waiter(), options)
    assert isinstance(made, AmqpSource)
    return made


def wait_until(condition: Callable[[], bool], turn: Callable[[], None], timeout: float = DEADLINE) -> None:
    """Call ``turn`` until ``condition`` holds. Raises AssertionError after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"did not come true within {timeout} s"
        turn()


def pump_until(source: AmqpSource, condition: Callable[[], bool], timeout: float = DEADLINE) -> None:
    """Pump ``source`` until ``condition`` holds."""
    wait_until(condition, lambda: source.pump(0.2), timeout)


def pump_quiet(source: AmqpSource, seconds: float) -> None:
    """Pump for a while in which nothing is expected to come."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        source.pump(left)


def in_background(call: Callable[[], object]) -> threading.Thread:
    """Run ``call`` in a thread (green where patched)."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread
