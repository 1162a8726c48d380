"""An embedded broker in a folder of the test's own, found by the settings as a service's would be."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import kombu
import pytest

import greenworker.broker.sqlite  # noqa: F401 - registers the transport with kombu
from greenworker.broker.delivery import Envelope
from greenworker.protocol.message import TaskMessage, decode_task


class EmbeddedBroker:
    """The file that a worker would have made, and what is on its queues."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "broker.db"
        self._connection = kombu.Connection(f"sqlite:///{self.path}", transport_options={"create": True})
        self._connection.connect()

    def declare(self, *queues: str) -> None:
        for queue in queues:
            self._connection.default_channel.queue_declare(queue)

    def put(self, queue: str, count: int) -> None:
        self.declare(queue)
        with self._connection.Producer() as producer:
            for number in range(count):
                producer.publish({"number": number}, routing_key=queue)

    def count(self, queue: str) -> int:
        return int(self._connection.default_channel.queue_declare(queue, passive=True).message_count)

    def messages(self, queue: str = "celery") -> Sequence[TaskMessage]:
        """All messages of a queue, taken off it, decoded as a worker does."""
        found = []
        simple = self._connection.SimpleQueue(queue)
        while simple.qsize():
            message = simple.get(timeout=5)
            message.ack()
            envelope = Envelope(
                message.body, message.content_type, message.content_encoding, message.headers, message.properties
            )
            found.append(decode_task(envelope, ["json"]))
        return found

    def close(self) -> None:
        self._connection.release()


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder that the settings find; the current folder is the test's own too."""
    for name in [name for name in os.environ if name.startswith("GREENWORKER_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "state"
    folder.mkdir()
    monkeypatch.setenv("STATE_DIRECTORY", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def embedded(state: Path) -> Iterator[EmbeddedBroker]:
    broker = EmbeddedBroker(state)
    yield broker
    broker.close()
