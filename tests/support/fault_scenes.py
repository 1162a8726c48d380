"""A worker, a broker and a journal for the fault and shutdown tests, and what is left on the queue meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import amqp

from greenworker.app.app import App
from greenworker.app.options import SendOptions
from greenworker.broker.connection import database_path, is_amqp, is_redis
from greenworker.settings import load_settings
from tests.support.journal import Journal
from tests.support.redis_scenes import Keys
from tests.support.worker import Worker, write_ini

APP = "tests.support.fault_tasks:app"
QUEUE = "celery"


def sqlite_url(folder: Path) -> str:
    """The embedded broker's file that a worker in ``folder`` uses by itself."""
    return f"sqlite:////{str(folder).lstrip('/')}/state/broker.db"


def waiting_on(url: str, queue: str = QUEUE) -> int:
    """How many messages are ready on the queue: with nobody, not even prefetched."""
    if is_amqp(url):
        with amqp_channel(url) as channel:
            return int(channel.queue_declare(queue, passive=True).message_count)
    if is_redis(url):
        return Keys(url).waiting(queue)
    with closing(sqlite3.connect(database_path(url), timeout=5.0)) as connection:
        query = "SELECT count(*) FROM messages WHERE queue = ? AND owner IS NULL AND visible_at IS NULL"
        return int(connection.execute(query, (queue,)).fetchone()[0])


@contextmanager
def amqp_channel(url: str) -> Iterator[Any]:
    """A channel of a connection of its own, straight to the broker."""
    user_part, _, place = url.partition("://")[2].rpartition("@")
    user, _, password = user_part.partition(":")
    host, _, vhost = place.partition("/")
    with amqp.Connection(
        host, userid=user, password=password, virtual_host="/" if vhost == "%2F" else vhost, connect_timeout=5
    ) as connection:
        yield connection.channel()


class Scene:
    """One broker, one journal, any number of workers on them, all in one folder."""

    def __init__(
        self, folder: Path, url: str, *, results: bool | str = False, **sections: Mapping[str, object]
    ) -> None:
        """``sections``: what the INI files of the workers say beside the broker. ``results``: a URL, True: SQLite's."""
        self.folder = folder
        self.url = url
        self.journal = Journal(folder / "journal")
        here = f"sqlite:////{str(folder).lstrip('/')}/state/results.db"
        self.results_url = results if isinstance(results, str) else here if results else "none"
        self._ini: dict[str, dict[str, object]] = {
            "broker": {"url": url, "reconnect_delay": "0.1s"},
            "results": {"url": self.results_url},
        }
        for name, values in sections.items():
            self._ini.setdefault(name, {}).update(values)
        config = write_ini(folder / "client.ini", self._ini)
        self.client = App("client", settings=load_settings(config_files=(config,), environ={}))

    def worker(self, name: str = "worker", **sections: Mapping[str, object]) -> Worker:
        """A worker that is not started yet; ``sections`` are this one's own."""
        ini = {
            section: {**self._ini.get(section, {}), **sections.get(section, {})} for section in {*self._ini, *sections}
        }
        return Worker(self.folder, app=APP, ini=ini, environ=self.journal.environ, name=name)

    def send(self, task: str, *args: Any, count: int = 1, **options: Any) -> list[str]:
        """Send ``count`` of them, confirmed; returns their ids. ``options``: as for ``send_task``."""
        messages = [self.client.message(f"faults.{task}", args, {}, cast(SendOptions, options)) for _ in range(count)]
        self.client.publisher.publish([self.client.outgoing(message) for message in messages])
        return [message.id for message in messages]

    def ids(self, event: str) -> list[str]:
        """The ids of the tasks that noted ``event``, in order, one for each time."""
        return [line["id"] for line in self.journal.lines() if line["event"] == event]

    def waiting(self, queue: str = QUEUE) -> int:
        """How many messages nobody has."""
        return waiting_on(self.url, queue)

    def close(self) -> None:
        self.client.close()


def counted(ids: Sequence[str]) -> dict[str, int]:
    """How often each id is there, those that are there once excepted."""
    return {each: number for each in set(ids) if (number := ids.count(each)) > 1}
