"""An App whose messages are recorded in place of being sent, with a clock that stands still."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from greenworker import App
from greenworker.broker.publisher import Outgoing, Replacement
from greenworker.protocol.message import TaskMessage, decode_task
from greenworker.settings.model import Settings

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


class RecordingPublisher:
    """Keeps the Publisher protocol; ``sent`` has what was published."""

    can_park = True

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.closed = 0

    def publish(self, messages: Sequence[Outgoing], timeout: float | None = None) -> None:
        self.sent.extend(messages)

    def replace(self, replacements: Sequence[Replacement], timeout: float | None = None) -> None:
        raise AssertionError("producers replace nothing")

    def close(self) -> None:
        self.closed += 1

    @property
    def messages(self) -> list[TaskMessage]:
        """What was published, decoded as a worker does."""
        return [decode_task(outgoing.envelope, ["json", "yaml", "msgpack"]) for outgoing in self.sent]

    @property
    def last(self) -> TaskMessage:
        return self.messages[-1]


class FixedClock:
    """Stands still."""

    def monotonic(self) -> float:
        return 0.0

    def utcnow(self) -> datetime:
        return NOW


class Project:
    """An app under test and its publisher."""

    def __init__(self, *, set_as_current: bool = True, **settings: Any) -> None:
        self.publisher = RecordingPublisher()
        self.app = App("shop", settings=Settings(**settings), clock=FixedClock(), set_as_current=set_as_current)
        self.app.use_publisher(self.publisher)
