"""Requests, deliveries and what settles them, for tests of the execution layer: real classes, a recording source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from greenworker.app.app import App
from greenworker.broker.delivery import Delivery, Envelope, Settlement
from greenworker.broker.publisher import Outgoing, Replacement
from greenworker.execution.request import Request
from greenworker.protocol.message import TaskMessage, encode_task
from greenworker.protocol.results import ResultMeta, encode_meta
from greenworker.protocol.serialization import encode
from greenworker.settings import Settings


@dataclass
class RecordingSource:
    """Notes each settlement, in order."""

    settled: list[tuple[Any, Settlement]] = field(default_factory=list)
    closed: bool = False

    def settle(self, delivery: Delivery, settlement: Settlement) -> None:
        self.settled.append((delivery.tag, settlement))


class RecordingPublisher:
    """Confirms at once, or raises what ``errors`` holds first."""

    can_park = True
    blocked: str | None = None

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.errors: list[Exception] = []
        self.batches: list[int] = []

    def publish(self, messages: Any, timeout: float | None = None) -> None:
        self.batches.append(len(messages))
        if self.errors:
            raise self.errors.pop(0)
        self.sent.extend(messages)

    def replace(self, replacements: list[Replacement], timeout: float | None = None) -> None:
        self.publish([replacement.outgoing for replacement in replacements], timeout)
        for replacement in replacements:
            replacement.delivery.ack()

    def close(self) -> None:
        pass


class RecordingResults:
    """Encodes as a store does, and calls ``stored`` when told to (at once, unless ``held``)."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []
        self.held = False
        self.waiting: list[Any] = []

    def store(self, meta: ResultMeta, stored: Any = None) -> None:
        document = encode_meta(meta)
        encode(document, "json")
        self.documents.append(document)
        if stored is not None:
            self.waiting.append(stored)
        if not self.held:
            self.release()

    def release(self) -> None:
        waiting, self.waiting = self.waiting, []
        for stored in waiting:
            stored()


def make_app() -> App:
    """An app with one task, ``tests.add``, and settings that come from nowhere."""
    app = App("tests", settings=Settings())

    @app.task(name="tests.add")
    def add(x: int = 0, y: int = 0) -> int:
        return x + y

    return app


def make_request(
    *,
    app: App | None = None,
    task: str = "tests.add",
    task_id: str = "id-1",
    source: RecordingSource | None = None,
    acks_late: bool = True,
    tag: int = 1,
    **message_fields: Any,
) -> Request:
    """A request just received."""
    app = app or make_app()
    message = TaskMessage(task_id, task, **message_fields)
    delivery = make_delivery(encode_task(message), source or RecordingSource(), tag=tag)
    return Request(message, app.tasks[task], delivery, 0.0, acks_late)


def make_delivery(envelope: Envelope, source: RecordingSource, *, tag: int = 1, redelivered: bool = False) -> Delivery:
    return Delivery(tag, "celery", envelope, "", "celery", redelivered, source)


def raising(exc: BaseException) -> Callable[[], None]:
    """A body that raises ``exc``."""

    def body() -> None:
        raise exc

    return body
