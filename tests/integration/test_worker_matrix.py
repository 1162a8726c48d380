"""Every pool on every broker: each cell runs tasks, with the loop that the cell is due; and what each pool can do."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from greenworker.app.app import App
from greenworker.execution.pool import CAPABILITIES
from greenworker.settings import load_settings
from tests.support.journal import Journal
from tests.support.worker import Worker, wait_until

POOLS = ("gevent", "eventlet", "threads", "solo")
BROKERS = ("rabbitmq", "redis", "sqlite")
LOOPS = {
    (pool, broker): "asynloop" if pool in {"threads", "solo"} and broker != "sqlite" else "synloop"
    for pool in POOLS
    for broker in BROKERS
}


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder}/state/broker.db"


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("pool", POOLS)
def test_cell(pool: str, broker: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The end of the run prints the matrix: each cell's loop, or why it did not run."""
    cell = [pool, broker, f"not run: {broker} is not here"]
    request.node.user_properties.append(("matrix", cell))
    url = sqlite_url(tmp_path) if broker == "sqlite" else request.getfixturevalue(f"{broker}_url")
    cell[2] = "FAILED"
    journal = Journal(tmp_path / "journal")
    with Worker(
        tmp_path,
        app="tests.support.mixed_tasks:app",
        ini={"worker": {"pool": pool, "concurrency": 8}, "broker": {"url": url}},
        environ=journal.environ,
    ) as worker:
        app = App("client", settings=load_settings(overrides={("broker", "url"): url}, environ={}))
        for number in range(30):
            app.send_task("mixed.add", [number])
        app.send_task("mixed.flaky", [1])
        app.send_task("mixed.coroutine")
        app.send_task("mixed.nothing", countdown=1)
        wait_until(lambda: len(journal.lines()) >= 34, what="34 runs")
        app.close()
        assert worker.stop() == 0
        assert f"loop     {LOOPS[pool, broker]}" in worker.output
    assert Counter(note["task"] for note in journal.lines()) == {
        "mixed.add": 30,
        "mixed.flaky": 2,
        "mixed.coroutine": 1,
        "mixed.nothing": 1,
    }
    cell[2] = LOOPS[pool, broker] + (", kombu's hub" if LOOPS[pool, broker] == "asynloop" else ", no hub")


@pytest.fixture(params=POOLS)
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Worker, App, Journal]]:
    """A worker of each pool on the embedded broker: pool, worker, client, journal."""
    journal = Journal(tmp_path / "journal")
    ini = {"worker": {"pool": request.param, "concurrency": 4, "shutdown_timeout": "300ms"}}
    with Worker(tmp_path, app="tests.support.mixed_tasks:app", ini=ini, environ=journal.environ) as worker:
        settings = load_settings(environ={"STATE_DIRECTORY": str(tmp_path / "state")})
        with App("client", settings=settings) as app:
            yield request.param, worker, app, journal


def skip_without(pool: str, capability: str) -> None:
    """Skip what the pool's row in the capability table says it cannot do, naming the row."""
    assert capability in {field.name for field in fields(CAPABILITIES[pool])}
    if not getattr(CAPABILITIES[pool], capability):
        pytest.skip(f"execution/pool.CAPABILITIES[{pool!r}]: {capability}=False")


def test_limits(running: tuple[str, Worker, App, Journal]) -> None:
    pool, _, app, _ = running
    skip_without(pool, "limits")
    hard = app.send_task("mixed.hard")
    soft = app.send_task("mixed.soft")
    assert type(hard.get(timeout=10, propagate=False)).__name__ == "TimeLimitExceeded"
    assert soft.get(timeout=10) == "cleaned up"


def test_put_back(running: tuple[str, Worker, App, Journal]) -> None:
    pool, worker, app, journal = running
    skip_without(pool, "put_back")
    app.send_task("mixed.sleep", [60])
    wait_until(journal.lines, what="the task has begun")
    began = time.monotonic()
    assert worker.stop(signal.SIGTERM) == 75
    assert time.monotonic() - began < 10
    worker.start()
    wait_until(lambda: len(journal.lines()) == 2, what="the task has begun again")
    assert {note["retries"] for note in journal.lines()} == {0}
    worker.send(signal.SIGQUIT)
    assert worker.wait() == 75
