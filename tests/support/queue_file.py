"""The embedded broker for tests: envelopes, a source that is pumped until something holds, a file in a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from greenworker.broker.delivery import Delivery, Envelope, QueueSpec
from greenworker.broker.publisher import Outgoing
from greenworker.broker.sqlite.publisher import SqlitePublisher
from greenworker.broker.sqlite.source import SqliteOptions, SqliteSource
from greenworker.green.native import NativeWaiter

QUEUE = QueueSpec("celery")


def envelope(body: str | bytes = "[]", headers: dict[str, Any] | None = None, **properties: Any) -> Envelope:
    """A message as a client would send it."""
    return Envelope(body, "application/json", "utf-8", headers or {"task": "t"}, {"delivery_mode": 2, **properties})


def outgoing(body: str | bytes = "[]", queue: QueueSpec = QUEUE, delay: float = 0.0, **properties: Any) -> Outgoing:
    """The same on its way to ``queue``."""
    return Outgoing(envelope(body, **properties), queue.name, queue=queue, delay=delay)


class Consumer:
    """A source and what it has delivered, pumped by the test itself."""

    def __init__(
        self,
        path: Path,
        queues: Sequence[QueueSpec] = (QUEUE,),
        prefetch: int = 100,
        options: SqliteOptions | None = None,
    ) -> None:
        self.got: list[Delivery] = []
        self.waiter = NativeWaiter()
        self.source = SqliteSource(path, self.got.append, self.waiter, options=options)
        self.source.start(queues, prefetch)

    def bodies(self) -> list[str | bytes]:
        return [delivery.envelope.body for delivery in self.got]

    def pump_until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Pump until ``condition`` holds; fails after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"nothing came of it within {timeout} s; delivered so far: {len(self.got)}"
            self.source.pump(min(left, 0.2))

    def take(self, count: int, timeout: float = 10.0) -> list[Delivery]:
        """The next ``count`` deliveries."""
        self.pump_until(lambda: len(self.got) >= count, timeout)
        taken, self.got[:] = self.got[:count], self.got[count:]
        return taken

    def settle_down(self) -> None:
        """Pump as long as there is something to deliver."""
        before = -1
        while before != len(self.got):
            before = len(self.got)
            self.source.pump(0.0)

    def close(self) -> None:
        self.source.close()


def publish(path: Path, *messages: Outgoing) -> None:
    """Publish through a publisher of its own."""
    publisher = SqlitePublisher(path)
    try:
        publisher.publish(messages)
    finally:
        publisher.close()
