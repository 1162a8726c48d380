"""Database connections go back after every task: 1,000 greenlets share 10 connections of a real PostgreSQL."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenworker import App
from greenworker.errors import EXIT_PUT_BACK
from greenworker.settings import load_settings
from tests.conftest import skip_or_fail
from tests.support import postgres as postgres_support
from tests.support.journal import Journal
from tests.support.postgres import Postgres
from tests.support.worker import Worker, wait_until

CONNECTIONS = 10
APP = "tests.support.database_tasks:app"
RELEASES = {"django": "django", "sqlalchemy": "sqlalchemy:tests.support.database_tasks:Session"}
GREENLETS = 1_000
ENDS = {
    "returns": "NoneType",
    "fails": "ValueError",
    "exits": "SystemExit",
    "retries": "MaxRetriesExceededError",
    "sleeps": "TimeLimitExceeded",
}


@pytest.fixture(scope="module")
def database(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    skip_or_fail(request, postgres_support.missing())
    with Postgres(CONNECTIONS) as server:
        yield server


@pytest.fixture
def orders(database: Postgres) -> Postgres:
    """With an empty table."""
    database.execute("DROP TABLE IF EXISTS orders")
    database.execute("CREATE TABLE orders (id serial PRIMARY KEY, number integer NOT NULL)")
    database.execute("GRANT ALL ON orders, orders_id_seq TO shop")
    return database


def make_worker(folder: Path, database: Postgres, together: int, release: str, pool_timeout: float = 50.0) -> Worker:
    ini = {
        "worker": {"concurrency": together, "release": release, "prefetch_multiplier": 2},
        "task": {"max_retries": 0},
        "log": {"tasks": "DEBUG"},
    }
    environ = {"DATABASE_PORT": str(database.port), "POOL_TIMEOUT": str(pool_timeout), "TOGETHER": str(together)}
    return Worker(folder, app=APP, ini=ini, environ=environ)


def client(folder: Path) -> App:
    overrides = {("broker", "url"): f"sqlite:///{folder}/state/broker.db"}
    return App("client", settings=load_settings(overrides=overrides, environ={}))


@pytest.mark.parametrize("kind", ["django", pytest.param("sqlalchemy", marks=pytest.mark.full)])
def test_a_thousand_greenlets_share_ten_connections(kind: str, orders: Postgres, tmp_path: Path) -> None:
    """All run at once, each uses the ORM twice, all succeed; the server refused nobody."""
    with make_worker(tmp_path, orders, GREENLETS, RELEASES[kind]), client(tmp_path) as app:
        sent = app.bulk((f"database.{kind}", (number,)) for number in range(GREENLETS))
        assert [result.get(50.0) for result in sent] == [1] * GREENLETS
    assert orders.execute("SELECT count(*) FROM orders") == [(GREENLETS,)]
    assert "connection slots" not in orders.log  # what it says when it refuses one


@pytest.mark.parametrize("kind", RELEASES)
def test_without_the_setting_the_first_ten_keep_them(kind: str, orders: Postgres, tmp_path: Path) -> None:
    """What the test above would see if nothing were given back."""
    count = CONNECTIONS + 5
    with make_worker(tmp_path, orders, count, "", pool_timeout=1.0), client(tmp_path) as app:
        sent = app.bulk((f"database.{kind}", (number,)) for number in range(count))
        for result in sent:
            result.get(20.0, propagate=False)
        assert sum(result.failed() for result in sent) == 5


@pytest.mark.parametrize("kind", RELEASES)
def test_however_a_task_ends(kind: str, orders: Postgres, tmp_path: Path) -> None:
    """More in a row than there are connections, in a transaction each: every one gets one, and leaves none in use."""
    with make_worker(tmp_path, orders, 1, RELEASES[kind], pool_timeout=2.0), client(tmp_path) as app:
        hows = [how for how in ENDS for _ in range(3)]
        sent = [app.send_task("database.ends", (kind, how), time_limit=0.3) for how in hows]
        for result in sent:
            result.get(30.0, propagate=False)
        assert [type(result.result).__name__ for result in sent] == [ENDS[how] for how in hows]
        assert app.send_task(f"database.{kind}", (1,)).get(10.0) == 1

        def idle() -> bool:
            return not orders.execute("SELECT 1 FROM pg_stat_activity WHERE usename = 'shop' AND state <> 'idle'")

        wait_until(idle, 5.0, "no transaction to be left open")


def test_a_release_that_fails_or_hangs_costs_nothing(tmp_path: Path) -> None:
    """It is logged; the task keeps its outcome, its message is acked, the slot serves the next one."""
    release = "tests.support.release_tasks:fail, tests.support.release_tasks:hang, tests.support.release_tasks:count"
    ini = {"worker": {"concurrency": 1, "release": release}}
    with (
        Worker(tmp_path, app="tests.support.release_tasks:app", ini=ini) as worker,
        client(tmp_path) as app,
    ):
        assert [app.send_task("release.count").get(20.0) for _ in range(3)] == [0, 1, 2]
        worker.wait_for_line("release tests.support.release_tasks:fail failed", count=3)
        worker.wait_for_line("release tests.support.release_tasks:hang was ended", count=3)


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_task_that_is_put_back_gives_back_first(pool: str, tmp_path: Path) -> None:
    """At a cold shutdown, in the task's slot and context."""
    journal = Journal(tmp_path / "journal")
    ini = {"worker": {"pool": pool, "concurrency": 1, "release": "tests.support.release_tasks:noted"}}
    app = "tests.support.release_tasks:app"
    with Worker(tmp_path, app=app, ini=ini, environ=journal.environ) as worker, client(tmp_path) as producer:
        sent = producer.send_task("release.sleep")
        wait_until(journal.lines, 10.0, "the task to begin")
        assert worker.stop(signal.SIGQUIT) == EXIT_PUT_BACK
    assert [(line["event"], line["id"]) for line in journal.lines()] == [("begin", sent.id), ("released", sent.id)]
