"""A broker, a worker on it and the marks of its tasks, for the load and queue tests."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import amqp
import pytest
from kombu.transport.native_delayed_delivery import MAX_LEVEL, level_name

from greenworker.broker.connection import database_path, is_amqp, is_redis
from greenworker.broker.delivery import QueueSpec
from tests.support import queue_file
from tests.support.bench_fill import client, fill
from tests.support.fault_scenes import amqp_channel, sqlite_url, waiting_on
from tests.support.journal import VARIABLE
from tests.support.redis_scenes import Keys
from tests.support.worker import Worker

APP = "tests.support.load_tasks:app"
BROKERS = ("rabbitmq", "redis", "sqlite")
DEFAULT_QUEUE = QueueSpec("celery")


class LoadScene:
    """One broker at ``url`` and one journal, in ``folder``. What the INI file says beside that is up to ``worker``."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        """``url`` None: the embedded broker. Its file is made here, to be filled before a worker comes."""
        self.folder = folder
        self.url = url or sqlite_url(folder)
        self._journal = folder / "journal"
        (folder / "state").mkdir(exist_ok=True)
        if url is None:
            queue_file.Consumer(database_path(self.url)).close()
        self._client = client(self.url)

    def worker(
        self, *, queues: Sequence[QueueSpec] = (DEFAULT_QUEUE,), arguments: Sequence[str] = (), **worker: object
    ) -> Worker:
        """Not started yet. ``worker`` are the keys of its section [worker]."""
        ini: dict[str, dict[str, object]] = {
            "worker": {"queues": ", ".join(queue.name for queue in queues), **worker},
            "broker": {"url": self.url},
            "results": {"url": "none"},
            "log": {"level": "WARNING"},
        }
        for queue in queues:
            ini[f"queue {queue.name}"] = {"type": queue.type, "weight": queue.weight}
        return Worker(self.folder, app=APP, ini=ini, arguments=arguments, environ={VARIABLE: str(self._journal)})

    def fill(self, task: str, count: int = 1, **options: Any) -> None:
        """Publish ``count`` calls of ``load.<task>``, confirmed. ``options``: as for ``bench_fill.fill``."""
        fill(self._client, f"load.{task}", count, **options)

    def fill_numbered(self, task: str, count: int) -> None:
        """The same; the argument of each call is its number, from 0 up."""
        messages = [self._client.message(f"load.{task}", [number], {}, {}) for number in range(count)]
        self._client.publisher.publish([self._client.outgoing(message) for message in messages], timeout=60.0)

    def fill_with_marks(self, count: int, *queues: QueueSpec) -> None:
        """``count`` tasks in each queue that leave its name."""
        for queue in queues:
            self.fill("mark", count, args=[queue.name], queue=queue)

    def marks(self) -> list[str]:
        """The lines of the journal so far, in order."""
        text = self._journal.read_text() if self._journal.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    def count(self) -> int:
        """How many lines there are, without reading them into a list."""
        return self._journal.read_bytes().count(b"\n") if self._journal.exists() else 0

    def parked(self) -> int:
        """How many messages wait on the broker for their time."""
        if is_amqp(self.url):
            names = [level_name(level) for level in range(MAX_LEVEL + 1)]
            with amqp_channel(self.url) as channel:
                try:
                    return sum(channel.queue_declare(name, passive=True).message_count for name in names)
                except amqp.NotFound:
                    return 0  # they are made when the first message is parked
        if is_redis(self.url):
            return Keys(self.url).parked
        return self._count_rows("visible_at IS NOT NULL")

    def waiting(self, queue: QueueSpec = DEFAULT_QUEUE) -> int:
        """How many messages nobody has, not even a worker in advance."""
        return waiting_on(self.url, queue.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.close()

    def _count_rows(self, condition: str) -> int:
        with closing(sqlite3.connect(database_path(self.url), timeout=5.0)) as connection:
            return int(connection.execute(f"SELECT count(*) FROM messages WHERE {condition}").fetchone()[0])


def open_scene(broker: str, folder: Path, request: pytest.FixtureRequest) -> LoadScene:
    """On ``broker``, one of BROKERS."""
    return LoadScene(folder, None if broker == "sqlite" else request.getfixturevalue(f"{broker}_url"))


def peak_rss_bytes(worker: Worker) -> int:
    """The most resident memory that the process has had so far."""
    status = Path(f"/proc/{worker.pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None, status
    return int(found[1]) * 1024
