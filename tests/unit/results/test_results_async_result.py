"""AsyncResult over a store that the test fills: what Celery's has, and how long it bears with a store that is away."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from greenworker import App
from greenworker.app import result as result_module
from greenworker.app.result import AsyncResult
from greenworker.errors import ResultsAwayError, ResultTimeoutError, TaskRevokedError
from greenworker.protocol.results import FAILURE, PENDING, RETRY, REVOKED, STARTED, SUCCESS, ResultMeta
from greenworker.settings import Settings

NOW = datetime(2031, 5, 6, tzinfo=UTC)


class Store:
    """Answers from ``records``; while ``away`` is left, it is away."""

    def __init__(self) -> None:
        self.records: dict[str, ResultMeta] = {}
        self.away = 0
        self.waits = 0

    def get(self, task_id: str) -> ResultMeta | None:
        return self.records.get(task_id)

    def wait(self, task_id: str, timeout: float) -> ResultMeta:
        self.waits += 1
        if self.away:
            self.away -= 1
            raise ResultsAwayError("away")
        meta = self.records.get(task_id)
        if meta is None or meta.status not in {SUCCESS, FAILURE, REVOKED}:
            time.sleep(min(timeout, 0.05))
            raise ResultTimeoutError("not yet")
        return meta

    def forget(self, task_id: str) -> None:
        self.records.pop(task_id, None)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def result(store: Store) -> AsyncResult:
    app = App("shop", settings=Settings())
    app.use_results(store)  # type: ignore[arg-type]
    return app.AsyncResult("1")


@pytest.mark.parametrize(
    ("meta", "answers"),
    [
        (None, (False, False, False)),
        (ResultMeta("1", STARTED), (False, False, False)),
        (ResultMeta("1", RETRY, ValueError("x")), (False, False, False)),
        (ResultMeta("1", SUCCESS, 3), (True, True, False)),
        (ResultMeta("1", FAILURE, ValueError("x")), (True, False, True)),
        (ResultMeta("1", REVOKED, TaskRevokedError("x")), (True, False, False)),
    ],
)
def test_what_the_states_mean(
    store: Store, result: AsyncResult, meta: ResultMeta | None, answers: tuple[bool, bool, bool]
) -> None:
    if meta is not None:
        store.records["1"] = meta
    assert (result.ready(), result.successful(), result.failed()) == answers
    assert result.state == result.status == (PENDING if meta is None else meta.status)
    assert result.result is result.info is (None if meta is None else meta.result)


@pytest.mark.parametrize("meta", [ResultMeta("1", FAILURE, ValueError("x")), ResultMeta("1", REVOKED, ValueError("x"))])
def test_exceptions_are_raised_or_returned(store: Store, result: AsyncResult, meta: ResultMeta) -> None:
    store.records["1"] = meta
    for reader in (result.get, result.wait, result.maybe_throw):
        with pytest.raises(ValueError, match="x"):
            reader()
        assert reader(propagate=False) is meta.result


def test_the_reason_of_a_retry_is_no_failure(store: Store, result: AsyncResult) -> None:
    store.records["1"] = ResultMeta("1", RETRY, ValueError("x"), traceback="Traceback")
    assert isinstance(result.maybe_throw(), ValueError)
    assert result.traceback == "Traceback"


def test_children_and_the_date(store: Store, result: AsyncResult) -> None:
    children: list[Any] = [[["a", [["p", None], None]], None], [["b", None], [[["c", None], None]]], "d", 5, []]
    store.records["1"] = ResultMeta("1", SUCCESS, None, children=children, date_done=NOW)
    assert [child.id for child in result.children] == ["a", "b", "d"]
    assert result.date_done == NOW


def test_a_final_record_is_read_once_and_forget_forgets_it(store: Store, result: AsyncResult) -> None:
    store.records["1"] = ResultMeta("1", SUCCESS, 3)
    assert result.get(timeout=1, interval=0.1) == 3
    store.records.clear()
    assert result.get() == 3 and result.state == SUCCESS and store.waits == 1
    result.forget()
    assert result.state == PENDING


def test_timeout_ends_the_wait(result: AsyncResult) -> None:
    begun = time.monotonic()
    with pytest.raises(ResultTimeoutError, match=r"task 1: no result after 0\.2 s"):
        result.get(timeout=0.2)
    assert 0.2 <= time.monotonic() - begun < 5


def test_a_wait_bears_with_a_store_that_comes_back(
    store: Store, result: AsyncResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_module, "AWAY_DELAY", 0.01)
    store.away, store.records["1"] = 5, ResultMeta("1", SUCCESS, 3)
    assert result.get() == 3


def test_but_not_for_ever_nor_beyond_the_timeout(
    store: Store, result: AsyncResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_module, "AWAY_DELAY", 0.01)
    store.away = 1_000_000
    begun = time.monotonic()
    with pytest.raises(ResultsAwayError):
        result.get(timeout=0.2)
    monkeypatch.setattr(result_module, "AWAY_LIMIT", 0.3)
    with pytest.raises(ResultsAwayError):
        result.get()
    assert 0.5 <= time.monotonic() - begun < 5
