"""Results in SQLite: Celery's document, durability before the callback, SUCCESS is final, waiting, expiry, faults."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from greenworker.errors import EncodeError, ResultsError, ResultTimeoutError, SettingsError, StateFolderError
from greenworker.protocol.results import FAILURE, RETRY, REVOKED, STARTED, SUCCESS, ResultMeta
from greenworker.results.base import ResultsOptions, default_results_url, make_results
from greenworker.results.null import NullResults
from greenworker.results.sqlite import SqliteResults
from tests.support.greenproc import GREEN_POOLS, run_patched

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def meta(task_id: str = "1", status: str = SUCCESS, result: Any = None, **more: Any) -> ResultMeta:
    return ResultMeta(task_id, status, result, date_done=NOW, **more)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


@pytest.fixture
def results(path: Path) -> Iterator[SqliteResults]:
    results = SqliteResults(path, ResultsOptions(create=True))
    results.start()
    yield results
    results.stop()


def stored(results: SqliteResults, *metas: ResultMeta) -> None:
    for each in metas:
        results.store(each)
    assert results.flush(10)


def test_a_result_comes_back_as_it_was_stored(results: SqliteResults) -> None:
    before = meta(result={"a": [1, "ü", None]}, children=[], parent_id="p", group_id="g")
    stored(results, before)
    assert results.get("1") == before
    assert results.get("2") is None


def test_the_document_is_celerys(results: SqliteResults, path: Path) -> None:
    from celery import Celery
    from celery.backends.base import KeyValueStoreBackend

    stored(results, meta("ok", result=[1, 2]), meta("bad", FAILURE, KeyError("missing"), traceback="Traceback: ..."))
    with sqlite3.connect(path) as db:
        documents = dict(db.execute("SELECT task_id, document FROM results"))
    db.close()
    assert list(json.loads(documents["ok"])) == ["status", "result", "traceback", "children", "date_done", "task_id"]
    backend = KeyValueStoreBackend(Celery("reader", set_as_current=False))
    ok = backend.meta_from_decoded(backend.decode_result(documents["ok"]))
    assert (ok["status"], ok["result"], ok["task_id"]) == ("SUCCESS", [1, 2], "ok")
    bad = backend.meta_from_decoded(backend.decode_result(documents["bad"]))
    assert isinstance(bad["result"], KeyError)
    assert bad["result"].args == ("missing",)
    assert bad["traceback"] == "Traceback: ..."


def test_stored_is_called_when_another_process_could_read_it(results: SqliteResults, path: Path) -> None:
    seen: list[int] = []
    done = threading.Event()

    def look() -> None:
        with sqlite3.connect(path) as db:
            seen.append(db.execute("SELECT count(*) FROM results").fetchone()[0])
        db.close()
        done.set()

    results.store(meta(), look)
    assert done.wait(10)
    assert seen == [1]


@pytest.mark.parametrize("later", [STARTED, RETRY, FAILURE, REVOKED, SUCCESS])
def test_success_is_final(results: SqliteResults, later: str) -> None:
    stored(results, meta(result="first"))
    stored(results, meta(status=later, result="second" if later in {SUCCESS, STARTED} else ValueError("x")))
    assert results.get("1") == meta(result="first")


def test_other_states_are_replaced_and_forget_makes_room(results: SqliteResults) -> None:
    stored(results, meta(status=STARTED), meta(status=FAILURE, result=ValueError("x")), meta(result="good"))
    assert results.get("1") == meta(result="good")
    results.forget("1")
    assert results.get("1") is None
    stored(results, meta(status=REVOKED, result=ValueError("y")))
    found = results.get("1")
    assert found is not None and found.status == REVOKED


def test_what_cannot_be_encoded_is_the_callers_error_and_queues_nothing(results: SqliteResults) -> None:
    with pytest.raises(EncodeError):
        results.store(meta(result=object()))
    assert results.flush(0.0)
    assert results.get("1") is None


def test_waiting_ends_with_a_final_state_alone(results: SqliteResults, path: Path) -> None:
    reader = SqliteResults(path)
    reader.start()
    stored(results, meta(status=STARTED))
    threading.Timer(0.1, results.store, [meta(result="late")]).start()
    assert reader.wait("1", 10).result == "late"
    started = time.monotonic()
    with pytest.raises(ResultTimeoutError, match=r"task 2 within 0\.1 s: no record"):
        reader.wait("2", 0.1)
    assert time.monotonic() - started < 5
    stored(results, meta("3", STARTED))
    with pytest.raises(ResultTimeoutError, match="its state is STARTED"):
        reader.wait("3", 0.05)
    reader.stop()


def test_a_reader_never_makes_the_file(path: Path) -> None:
    with pytest.raises(StateFolderError, match=r"\[results\] url"):
        SqliteResults(path).start()
    assert not path.exists()


def test_expired_results_are_neither_read_nor_kept(path: Path) -> None:
    results = SqliteResults(path, ResultsOptions(create=True, expires=0.05))
    results.start()
    stored(results, meta(result="old"))
    deadline = time.monotonic() + 10
    while results.get("1") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    stored(results, meta(status=STARTED))  # an expired SUCCESS is as good as forgotten
    assert results._expire() <= 1
    while results._opened().read("SELECT count(*) FROM results") != [(0,)]:
        assert time.monotonic() < deadline
        results._expire()
        time.sleep(0.005)
    results.stop()


def test_while_the_file_is_locked_results_wait_and_none_is_lost(
    results: SqliteResults, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(results, "_database", short_lock(results, path))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    called = threading.Event()
    results.store(meta("stuck"), called.set)
    deadline = time.monotonic() + 10
    while "stuck" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert not called.is_set()
    assert not results.flush(0.0)
    holder.execute("ROLLBACK")
    holder.close()
    assert called.wait(10)
    assert results.get("stuck") is not None


def short_lock(results: SqliteResults, path: Path) -> Any:
    import dataclasses

    from greenworker.broker.sqlite.database import Database

    results._opened().close()
    return Database(path, dataclasses.replace(results._opening(), lock_timeout=0.05))


def test_a_callback_that_fails_does_not_stop_the_writer(
    results: SqliteResults, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("the caller's fault")

    results.store(meta("1"), fail)
    stored(results, meta("2"))
    assert results.get("2") is not None
    assert "the caller's fault" in caplog.text


def test_a_full_queue_makes_callers_wait_and_loses_nothing(results: SqliteResults, path: Path) -> None:
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    finished = threading.Event()

    def many() -> None:
        for number in range(3_000):
            results.store(meta(str(number)))
        finished.set()

    threading.Thread(target=many, daemon=True).start()
    assert not finished.wait(1.0)
    holder.execute("ROLLBACK")
    holder.close()
    assert finished.wait(20)
    assert results.flush(20)
    assert results._opened().read("SELECT count(*) FROM results") == [(3_000,)]


def test_stop_writes_what_is_queued_and_is_harmless_twice(path: Path) -> None:
    results = SqliteResults(path, ResultsOptions(create=True))
    results.stop()
    results.start()
    for number in range(500):
        results.store(meta(str(number)))
    results.stop()
    results.stop()
    with pytest.raises(ResultsError):
        results.store(meta("late"))
    with pytest.raises(ResultsError):
        results.get("1")
    results.start()
    assert results._opened().read("SELECT count(*) FROM results") == [(500,)]
    results.stop()


@pytest.mark.parametrize("pool", GREEN_POOLS)
def test_the_writer_belongs_to_no_task(pool: str, path: Path) -> None:
    """It begins in the task that stores first; its lines, and those of its callbacks, are not that task's."""
    run_patched(
        pool,
        """
import contextvars, pathlib, threading
from greenworker.green.greens import library
from greenworker.protocol.results import ResultMeta, SUCCESS
from greenworker.results.base import ResultsOptions
from greenworker.results.sqlite import SqliteResults
library(POOL).install_context_inheritance()
variable, seen, stored = contextvars.ContextVar("variable", default=None), [], threading.Event()
results = SqliteResults(pathlib.Path(sys.argv[1]), ResultsOptions(create=True))
results.start()
variable.set("a task")
results.store(ResultMeta("1", SUCCESS, 1), lambda: (seen.append(variable.get()), stored.set()))
assert stored.wait(10) and seen == [None], seen
results.stop()
""",
        str(path),
    )


def test_the_factory_serves_the_urls_that_settings_allow(path: Path) -> None:
    assert isinstance(make_results(None), NullResults)
    assert isinstance(make_results("none"), NullResults)
    assert isinstance(make_results(f"sqlite:///{path}"), SqliteResults)
    with pytest.raises(SettingsError, match="mongodb"):
        make_results("mongodb://user:secret@host/")
    assert default_results_url("sqlite:////var/lib/greenworker/greenworker.db") == (
        "sqlite:////var/lib/greenworker/results.db"
    )
    assert default_results_url("amqp://host//") == "none"


def test_no_results_says_so_instead_of_waiting() -> None:
    results = NullResults()
    called = threading.Event()
    results.start()
    results.store(meta(), called.set)
    assert called.is_set()
    assert results.flush(0)
    with pytest.raises(ResultsError, match="switched off"):
        results.wait("1", 60)
    with pytest.raises(ResultsError, match="switched off"):
        results.get("1")
    results.stop()
