"""Signals: one run of the same tasks on a real Celery worker and on ours, told by the same receivers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import celery
import kombu
import pytest

from tests.support.celery_worker import CeleryWorker
from tests.support.journal import Journal
from tests.support.signal_tasks import OF_MESSAGES, OF_TASKS, OF_WORKERS
from tests.support.worker import Worker, wait_until

PAST = datetime.now(UTC) - timedelta(hours=1)
REJECTION = ("signals.asks", ["task_prerun", "task_failure", "task_postrun"])
OF_THE_LOOP = ("task_received", "task_revoked")
# Each task once, and how many signals end with it: the last thing that happens there.
ENDS = {"task_postrun": 8, "task_revoked": 1, "task_unknown": 1, "task_rejected": 1}


def send_all(url: str) -> None:
    """What both workers get: from a Celery client, but for what no client would send."""
    with celery.Celery("client", broker=url, set_as_current=False) as client:
        client.send_task("signals.add", [1], {"y": 2})
        client.send_task("signals.fails")
        client.send_task("signals.retried")
        client.send_task("signals.asks", ["reject"])
        client.send_task("signals.asks", ["ignore"])
        client.send_task("signals.sends")
        client.send_task("signals.add", [5], expires=PAST)
        client.send_task("signals.missing")
    with kombu.Connection(url) as connection:
        connection.Producer(serializer="json").publish(
            {"no": "task"}, routing_key="celery", declare=[kombu.Queue("celery")]
        )


@contextmanager
def our_worker(folder: Path, url: str, journal: Journal) -> Iterator[Any]:
    ini = {"broker": {"url": url}, "worker": {"concurrency": 4}}
    app = "tests.support.signal_tasks_ours:app"
    with Worker(folder, app=app, ini=ini, environ=journal.environ) as worker:
        yield worker


@contextmanager
def celery_worker(folder: Path, url: str, journal: Journal) -> Iterator[Any]:
    environ = {"SIGNALS_BROKER": url, **journal.environ}
    with CeleryWorker(folder, "tests.support.signal_tasks_celery", environ) as worker:
        yield worker


def told(worker: Any, folder: Path, url: str) -> list[dict[str, Any]]:
    """Every signal of one run of all the tasks, from the worker's start to its end."""
    folder.mkdir()
    journal = Journal(folder / "journal")
    with worker(folder, url, journal):
        send_all(url)

        def ended() -> bool:
            seen = Counter(line["event"] for line in journal.lines())
            return all(seen[event] >= count for event, count in ENDS.items())

        wait_until(ended, 20.0, f"all tasks to end; told so far: {journal.path}")
    return journal.lines()


@pytest.fixture(scope="module")
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What ours told, and what Celery's did."""
    server = request.getfixturevalue("redis_session")
    if server is None:
        pytest.skip("not here: no redis-server")
    folder = tmp_path_factory.mktemp("signals")
    ours = told(our_worker, folder / "ours", server.new_database())
    return ours, told(celery_worker, folder / "celery", server.new_database())


@pytest.mark.parametrize("signal", [*OF_TASKS, *OF_MESSAGES, *OF_WORKERS])
def test_each_signal_carries_what_celerys_does(both: Any, signal: str) -> None:
    """As often, about the same tasks, with the same keywords, and in those that can be compared the same values."""
    ours, celerys = ([_comparable(line) for line in lines if line["event"] == signal] for lines in both)
    assert celerys, "no such signal in this run: the test compares nothing"
    if signal == "task_received":  # Celery is silent about the one that has expired when it comes
        celerys.append(next(line for line in celerys if "signals.add" in line))
    assert sorted(ours) == sorted(celerys)


def test_signals_of_a_run_come_in_celerys_order(both: Any) -> None:
    """For each run of each task: what was told from its start to its end, in order.

    But for the failure that a rejection is: Celery tells of it afterwards and outside of the task, where a receiver
    would find no current task.
    """
    ours, celerys = (sorted(_runs(lines)) for lines in both)
    ours[ours.index(REJECTION)][1].remove("task_failure")
    ours.sort()
    assert len(celerys) == ENDS["task_postrun"]
    assert ours == celerys


def test_receivers_run_in_the_context_of_their_task(both: Any) -> None:
    """Those that are told before and after the run, too, where Celery has no current task."""
    ours, _ = both
    lines = [line for line in ours if line["event"] in OF_TASKS and line["event"] != "task_success"]
    assert lines
    assert [line["current"] for line in lines] == [line["task_id"] for line in lines]
    assert all(line["current"] for line in ours if line["event"] == "task_success")


def _comparable(line: dict[str, Any]) -> str:
    return repr((line["of"], line["keywords"], sorted(line["values"].items())))


def _runs(lines: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Task and events of each run. Those of the loop (received, revoked) may come at any time before."""
    within = [line for line in lines if line["event"] in OF_TASKS and line["event"] not in OF_THE_LOOP]
    for task_id in {line["current"] for line in within}:
        events: list[str] = []
        for line in within:
            if line["current"] == task_id:
                events.append(line["event"])
                if line["event"] == "task_postrun":
                    yield line["of"], events
                    events = []
