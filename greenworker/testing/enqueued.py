"""What was sent: a publisher that keeps messages in place of sending them, and the assertion over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from greenworker.app.task import Task
from greenworker.app.told_publisher import ToldPublisher
from greenworker.broker.publisher import Outgoing, Publisher, Replacement
from greenworker.protocol.message import TaskMessage, decode_task
from greenworker.protocol.serialization import decode, encode
from greenworker.settings.model import SERIALIZERS


class RecordingPublisher:
    """Implements broker/publisher.Publisher; ``sent`` has what was published, in order."""

    can_park = True

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []

    @property
    def blocked(self) -> str | None:
        return None

    def publish(self, messages: Sequence[Outgoing], timeout: float | None = None) -> None:
        self.sent.extend(messages)

    def replace(self, replacements: Sequence[Replacement], timeout: float | None = None) -> None:
        self.publish([each.outgoing for each in replacements])
        for each in replacements:
            each.delivery.ack()

    def close(self) -> None:
        """Nothing is held."""


class Enqueued:
    """Call it to assert that a task was sent. ``messages`` has all that was sent, ``clear`` forgets it."""

    def __init__(self) -> None:
        self._recording = RecordingPublisher()
        self.publisher: Publisher = ToldPublisher(self._recording)

    @property
    def messages(self) -> list[TaskMessage]:
        """What was sent so far, as a worker would read it."""
        return [decode_task(outgoing.envelope, SERIALIZERS) for outgoing in self._recording.sent]

    def clear(self) -> None:
        """Forget what was sent so far."""
        self._recording.sent.clear()

    def __call__(
        self,
        task: Task | str,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        count: int | None = None,
    ) -> list[TaskMessage]:
        """Assert that ``task`` was sent, ``count`` times (None: at least once); returns the messages.

        Where ``args`` or ``kwargs`` are given, messages with exactly these count alone. They are compared as a worker
        would get them: a tuple inside of them as a list.
        """
        __tracebackhide__ = True
        name = task if isinstance(task, str) else task.name
        found = [message for message in self.messages if message.task == name]
        if args is not None:
            found = [message for message in found if list(message.args) == _as_sent(list(args))]
        if kwargs is not None:
            found = [message for message in found if message.kwargs == _as_sent(dict(kwargs))]
        if len(found) != count if count is not None else not found:
            raise AssertionError(self._complaint(_call(name, args, kwargs), count, len(found)))
        return found

    def _complaint(self, wanted: str, count: int | None, found: int) -> str:
        sent = "\n".join(f"  {_call(each.task, each.args, each.kwargs)}" for each in self.messages) or "  nothing"
        times = "at least once" if count is None else f"{count} times"
        return f"expected {wanted} to be sent {times}, and it was sent {found} times; sent was:\n{sent}"


def _as_sent(value: Any) -> Any:
    body, content_type, content_encoding = encode(value, "json")
    return decode(body, content_type, content_encoding, ("json",))


def _call(name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> str:
    given = ["..."] if args is None else [repr(value) for value in args]
    given += ["**..."] if kwargs is None else [f"{key}={value!r}" for key, value in kwargs.items()]
    return f"{name}({', '.join(given)})"
