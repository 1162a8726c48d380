"""One broker with clients and workers of both kinds on the same queue, and a journal of who ran what."""

from __future__ import annotations

from pathlib import Path

from celery import Celery

from greenworker.app.app import App
from greenworker.settings import load_settings
from tests.support.celery_client import celery_client
from tests.support.celery_worker import CeleryWorker
from tests.support.journal import Journal
from tests.support.worker import Worker, wait_until

KINDS = ("celery", "greenworker")
SUPPLY = 100  # tasks that wait at least, while workers are watched at their work


class SharedScene:
    """Workers are not started yet; each needs a name of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.journal = Journal(folder / "journal")
        self.celery: Celery = celery_client(url)
        self.ours = App("client", settings=load_settings(overrides={("broker", "url"): url}, environ={}))
        self.held = 0  # how many have been sent by send_held

    def greenworker(
        self, name: str = "worker", lease_timeout: str = "60s", visibility_timeout: str = "1h", **worker: object
    ) -> Worker:
        timeouts = {"lease_timeout": lease_timeout, "visibility_timeout": visibility_timeout}
        ini = {"worker": {"concurrency": 4, **worker}, "broker": {"url": self.url, **timeouts}}
        return Worker(
            self.folder, app="tests.support.shared_tasks_ours:app", ini=ini, environ=self.journal.environ, name=name
        )

    def celery_worker(self, pool: str = "threads", name: str = "celery") -> CeleryWorker:
        environ = {**self.journal.environ, "SHARED_BROKER": self.url}
        folder = self.folder / name
        folder.mkdir()
        return CeleryWorker(folder, "tests.support.shared_tasks_celery", environ, pool=pool)

    def send_held(self, count: int, seconds: float) -> None:
        """Send ``count`` more numbered tasks of ``seconds`` each, by both clients in turn."""
        for number in range(self.held, self.held + count):
            client = self.celery if number % 2 else self.ours
            client.send_task("shared.hold", [number, seconds], priority=number % 10)
        self.held += count

    def numbers(self, event: str, who: str | None = None) -> list[int]:
        """The numbers of the tasks that noted ``event``, in order, one for each time."""
        return [
            line["number"] for line in self.journal.lines() if line["event"] == event and who in {None, line["who"]}
        ]

    def wait_for_work(self, count: int, seconds: float) -> None:
        """Until each kind of worker has ended ``count`` more tasks of ``seconds``; sends more before they run short.

        How many are needed is the machine's affair: one worker may work through hundreds while another one starts.
        """
        before = {who: len(self.numbers("end", who)) for who in KINDS}

        def are_at_work() -> bool:
            ended = {who: len(self.numbers("end", who)) for who in KINDS}
            self.send_held(max(0, SUPPLY - (self.held - sum(ended.values()))), seconds)
            return all(ended[who] >= before[who] + count for who in KINDS)

        wait_until(are_at_work, 40.0, "both kinds of workers at work")

    def close(self) -> None:
        self.celery.close()
        self.ours.close()
