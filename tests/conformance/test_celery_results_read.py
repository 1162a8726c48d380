"""Celery's AsyncResult reads our results and ours reads Celery's: real workers on either side, three pairs of places.

Each test runs the same calls against both pairs; what is expected stands once, below.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import celery.exceptions
import pytest

from greenworker import App
from greenworker.errors import ResultTimeoutError
from greenworker.settings import load_settings
from tests.conftest import skip_or_fail
from tests.support import redis_server as redis_support
from tests.support.celery_client import celery_client
from tests.support.celery_worker import CeleryWorker
from tests.support.redis_server import RedisServer
from tests.support.result_tasks import ShopError
from tests.support.worker import Worker, wait_until, write_ini

WAIT = 20.0  # seconds for one result, on a machine that other tests share


@dataclass
class Pair:
    """A client and a worker of the two kinds, whose results are kept in one place."""

    client: Any
    new_client: Callable[[], Any]  # one that has not waited for anything yet

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        return self.client.send_task(f"results.{task}", list(args), **options)

    def outcome(self, task: str, *args: Any) -> Any:
        """What ``get`` returns, or the exception that it raises."""
        try:
            return self.send(task, *args).get(timeout=WAIT)
        except Exception as exc:
            return exc


def ours_reads(url: str, backend: str, folder: Path) -> App:
    config = write_ini(folder / "client.ini", {"broker": {"url": url}, "results": {"url": backend}})
    return App("client", settings=load_settings(config_files=(config,), environ={}))


@pytest.fixture(
    scope="module",
    params=[pytest.param("rabbitmq with redis", marks=pytest.mark.full), "rabbitmq with rpc", "redis with redis"],
)
def places(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Broker and backend."""
    broker, backend = request.param.split(" with ")
    return address(request, broker), "rpc://" if backend == "rpc" else address(request, backend)


def address(request: pytest.FixtureRequest, kind: str) -> str:
    if kind == "rabbitmq":
        return str(request.getfixturevalue("rabbitmq_module_url"))
    skip_or_fail(request, redis_support.missing())
    server: RedisServer = request.getfixturevalue("redis_session")
    return server.new_database()


@pytest.fixture(scope="module", params=["celery reads ours", "ours reads celery's"])
def pair(
    request: pytest.FixtureRequest, places: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    url, backend = places
    folder = tmp_path_factory.mktemp("pair")
    if request.param == "celery reads ours":
        ini = {"broker": {"url": url}, "results": {"url": backend}, "worker": {"concurrency": 20}}
        with Worker(folder, app="tests.support.result_tasks_ours:app", ini=ini):
            yield Pair(celery_client(url, backend), lambda: celery_client(url, backend))
    else:
        environ = {"RESULT_BROKER": url, "RESULT_BACKEND": backend}
        with (
            CeleryWorker(folder, "tests.support.result_tasks_celery", environ),
            ours_reads(url, backend, folder) as app,
        ):
            yield Pair(app, lambda: app)


@pytest.mark.parametrize(
    "value",
    [None, 0, "", [], "naïve 🦊", {"a": [1, {"b": None}]}, 2**70, [1.5, True], "x" * 1_000_000],
    ids=lambda value: repr(value)[:20],
)
def test_values_come_back(pair: Pair, value: Any) -> None:
    assert pair.outcome("give", value) == value


def test_a_date_comes_back(pair: Pair) -> None:
    assert pair.outcome("give_time") == {"when": datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)}


def test_an_exception_of_the_project_comes_back_as_itself(pair: Pair) -> None:
    found = pair.outcome("fail", "wrong", 3)
    assert type(found) is ShopError
    assert found.args == ("wrong", 3)


def test_a_chained_exception_comes_with_both_tracebacks(pair: Pair) -> None:
    result = pair.send("chained")
    with pytest.raises(ShopError, match="outer"):
        result.get(timeout=WAIT)
    assert result.failed() and result.state == "FAILURE"
    assert "KeyError: 'inner'" in result.traceback
    assert "direct cause" in result.traceback
    assert "ShopError" in result.traceback


def test_get_may_return_the_exception(pair: Pair) -> None:
    found = pair.send("fail", "x").get(timeout=WAIT, propagate=False)
    assert type(found) is ShopError


def test_an_exception_that_cannot_be_encoded_still_ends_the_wait(pair: Pair) -> None:
    found = pair.outcome("unspeakable")
    assert isinstance(found, ShopError)
    assert "object object at" in str(found)


def test_a_value_that_cannot_be_encoded_is_a_failure(pair: Pair) -> None:
    result = pair.send("unstorable")
    with pytest.raises(Exception, match="object"):
        result.get(timeout=WAIT)
    assert result.state == "FAILURE"


def test_a_retried_task_ends_well(pair: Pair) -> None:
    assert pair.outcome("flaky") == 1


def test_a_state_of_the_tasks_own_is_seen_on_the_way(pair: Pair) -> None:
    # Celery's rpc client does not look at its queue any more for states once it has waited for a result.
    result = pair.new_client().send_task("results.progress", [2.0])
    wait_until(lambda: result.state == "PROGRESS", WAIT, "the state PROGRESS")
    assert result.info == {"done": 1}
    assert not result.ready()
    assert result.get(timeout=WAIT) == "done"
    assert result.ready() and result.successful() and result.state == "SUCCESS" and result.result == "done"


def test_the_rest_of_the_record(pair: Pair) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    result = pair.send("add", 1, 2)
    assert result.get(timeout=WAIT, interval=0.1) == 3
    assert before <= result.date_done.replace(tzinfo=UTC) <= datetime.now(UTC) + timedelta(seconds=1)
    assert not result.children
    assert result.traceback is None


def test_a_task_that_never_ran_is_pending_and_times_out(pair: Pair) -> None:
    result = pair.client.AsyncResult("nobody-sent-this")
    assert result.state == "PENDING" and not result.ready() and result.result is None
    begun = time.monotonic()
    with pytest.raises((ResultTimeoutError, celery.exceptions.TimeoutError)):
        result.get(timeout=0.3)
    assert time.monotonic() - begun < 5


def test_many_results_come_to_those_who_wait(pair: Pair) -> None:
    results = [pair.send("add", number, 1) for number in range(200)]
    assert [result.get(timeout=WAIT) for result in results] == [number + 1 for number in range(200)]


def test_forget_removes_the_record(pair: Pair) -> None:
    result = pair.send("add", 2, 2)
    assert result.get(timeout=WAIT) == 4
    result.forget()
    assert pair.client.AsyncResult(result.id).state == "PENDING"
