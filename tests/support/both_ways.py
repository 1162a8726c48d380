"""One cell of what runs both ways: a client of one kind, a worker of the other, a broker, and where results go.

The worker serves all cases of its cell. Most are sent at once, when it has started, and looked at one by one.
"""

from __future__ import annotations

import contextlib
import gc
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greenworker import App
from greenworker.settings import load_settings
from tests.support.both_ways_cases import Case, Seen
from tests.support.both_ways_settings import QUEUES, URGENT, celery_settings, our_settings
from tests.support.celery_client import celery_client
from tests.support.celery_worker import CeleryWorker
from tests.support.journal import Journal
from tests.support.worker import Worker, wait_until, write_ini

CELERY, GREENWORKER = "celery", "greenworker"
WAIT = 25.0  # seconds for one result, on a machine that other tests share
ELSEWHERE = {"TZ": "Asia/Kathmandu"}  # the worker's time zone, 5:45 from UTC: no date depends on it


@dataclass
class Cell:
    """``client`` has sent all cases that are not watched; ``new_client`` makes one that has waited for nothing yet."""

    worker: Worker | CeleryWorker
    kind: str  # of the worker
    journal: Journal
    folder: Path
    client: Any
    new_client: Callable[[], Any]
    by_priority: Mapping[str, int]  # the ids of what was sent to the queue URGENT before there was a worker
    lowest_first: bool
    _sent: dict[str, Seen] = field(default_factory=dict)

    def send(self, case: Case, client: Any | None = None) -> Seen:
        """Send ``case``; what is known of it then."""
        client = client or self.client
        options = {**case.options, **(case.when(client) if case.when else {})}
        kwargs = {**case.kwargs, **({"gate": str(self.gate(case))} if case.gated else {})}
        sent_at = time.time()
        result = client.send_task(f"shop.{case.task}", case.args, kwargs, **options)
        return Seen(result, options, sent_at, self.kind)

    def send_all(self, cases: Sequence[Case]) -> None:
        """Send those that are not to be watched on their way."""
        for case in cases:
            if not case.passes:
                self._sent[case.name] = self.send(case)

    def see(self, case: Case) -> Seen:
        """What came of ``case``, when all has come of it."""
        seen = self._watch(case) if case.passes else self._sent[case.name]
        if case.is_stored:
            seen.value = outcome(seen.result)
        if case.notes:
            wait_until(lambda: len(self.journal.of(seen.result.id)) >= case.notes, WAIT, f"{case.notes} notes")
        if not case.is_stored:
            # Whatever would be stored is stored when a task that was sent after it has ended.
            self.client.send_task("shop.echo").get(timeout=WAIT)
        seen.notes = self.journal.of(seen.result.id)
        link = seen.options.get("link")
        if link is not None:
            linked = link["options"]["task_id"]
            wait_until(lambda: self.journal.of(linked), WAIT, "the linked task")
            seen.linked = self.journal.of(linked)
        return seen

    def _watch(self, case: Case) -> Seen:
        """Send it now, and let it go when it was seen in the state that it passes."""
        # Celery's rpc client does not look at its queue any more for states once it has waited for a result.
        seen = self.send(case, self.new_client())
        wait_until(
            lambda: seen.result.state == case.passes, WAIT, f"the state {case.passes}", lambda: seen.result.state
        )
        seen.passed = seen.result.info
        self.gate(case).touch()
        return seen

    def forget(self) -> None:
        """Let go of all results while there is a broker: those of Celery say goodbye to it when they are collected."""
        self._sent.clear()
        gc.collect()

    def gate(self, case: Case) -> Path:
        """The file that lets a held task go."""
        return self.folder / f"{case.name} may end"

    def order_of_receipt(self) -> list[str]:
        """The ids of what came from the queue URGENT, in the order in which the worker had them."""

        def received() -> list[str]:
            ids = re.findall(r"Task shop\.echo\[([\w-]+)\] received", self.worker.output)
            return [task_id for task_id in ids if task_id in self.by_priority]

        wait_until(lambda: len(received()) == len(self.by_priority), WAIT, "all of the queue", received)
        return received()


def outcome(result: Any) -> Any:
    """What ``get`` returns, or the exception that it raises."""
    try:
        return result.get(timeout=WAIT)
    except Exception as exc:
        return exc


@contextlib.contextmanager
def open_cell(kind: str, broker_url: str, results_url: str, folder: Path) -> Iterator[Cell]:
    """A worker of ``kind``, and a client of the other; in the queue URGENT lay messages before it started."""
    journal = Journal(folder / "journal")
    with contextlib.ExitStack() as open_things:

        def new_client() -> Any:
            if kind == CELERY:
                return client
            other = celery_client(broker_url, results_url, **celery_settings())
            open_things.callback(other.close)
            return other

        ini = our_settings(broker_url, results_url)
        if kind == CELERY:
            config = write_ini(folder / "client.ini", ini)
            client: Any = open_things.enter_context(
                App("client", settings=load_settings(config_files=(config,), environ={}))
            )
        else:
            client = new_client()
        priorities = [5, 0, 9, 3, 7, 0, 9, 6, 2, 5]
        by_priority = {
            client.send_task("shop.echo", [number], queue=URGENT, priority=priority).id: priority
            for number, priority in enumerate(priorities)
        }
        worker: Worker | CeleryWorker
        if kind == CELERY:
            environ = {**journal.environ, **ELSEWHERE, "SHOP_BROKER": broker_url, "SHOP_BACKEND": results_url}
            # prefork, for time limits are not in Celery's other pools.
            arguments = ("-Q", ",".join(QUEUES), "-c", "8")
            worker = CeleryWorker(folder, "tests.support.both_ways_celery", environ, arguments, pool="prefork")
        else:
            environ = {**journal.environ, **ELSEWHERE}
            worker = Worker(folder, app="tests.support.both_ways_ours:app", ini=ini, environ=environ)
        lowest_first = broker_url.startswith("redis")
        with worker:
            cell = Cell(worker, kind, journal, folder, client, new_client, by_priority, lowest_first)
            yield cell
            cell.forget()
