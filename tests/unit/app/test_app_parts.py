"""The small parts of an app: names of a script's tasks, settings from the code, shared objects, results."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greenworker import App
from greenworker.app.result import AsyncResult
from greenworker.app.services import open_results, results_options, with_code_values
from greenworker.app.shared import Shared
from greenworker.errors import ResultsError, ResultTimeoutError, SettingsError
from greenworker.protocol.results import FAILURE, PENDING, RETRY, STARTED, SUCCESS, ResultMeta
from greenworker.settings.load import load_settings
from greenworker.settings.model import Settings

SCRIPT = """
from greenworker.app.naming import task_name
print(task_name("shop", __name__, "add"), task_name(None, __name__, "add"))
"""


@pytest.mark.parametrize("command", [["script.py"], ["-m", "script"]])
def test_names_of_tasks_in_a_script(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.split() == ["shop.add", "script.add"]


def loaded(**environ: str) -> Settings:
    return load_settings(environ={"STATE_DIRECTORY": "/var/lib/gw", **environ})


def test_code_counts_over_the_default_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/gw")
    settings = with_code_values(loaded(), "amqp://code//", None)
    assert (settings.broker.url, settings.results.url) == (("amqp://code//",), None)
    settings = with_code_values(loaded(), "sqlite:////code/broker.db", None)
    assert settings.results.url == "sqlite:////code/results.db"
    settings = with_code_values(loaded(), None, "none")
    assert (settings.broker.url, settings.results.url) == (loaded().broker.url, None)
    settings = with_code_values(loaded(), "amqp://a// amqp://b//", "sqlite:////code/r.db")
    assert (settings.broker.url, settings.results.url) == (("amqp://a//", "amqp://b//"), "sqlite:////code/r.db")


def test_operator_counts_over_the_code() -> None:
    given = loaded(GREENWORKER_BROKER_URL="amqp://operator//", GREENWORKER_RESULTS_URL="none")
    assert with_code_values(given, "sqlite:////code/broker.db", "sqlite:////code/r.db") == given
    given = loaded(GREENWORKER_RESULTS_URL="none")
    settings = with_code_values(given, "sqlite:////code/broker.db", "sqlite:////code/r.db")
    assert (settings.broker.url, settings.results.url) == (("sqlite:////code/broker.db",), None)


def test_wrong_url_in_the_code_is_told_without_its_password() -> None:
    with pytest.raises(SettingsError) as caught:
        with_code_values(loaded(), "ampq://me:secret@host//", None)
    assert str(caught.value).startswith("App(broker=...): expected ")
    assert "ampq://me:***@host" in str(caught.value) and "secret" not in str(caught.value)


def test_worker_and_producer_of_one_app_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/gw")
    for name in [name for name in os.environ if name.startswith("GREENWORKER_")]:
        monkeypatch.delenv(name)
    producer, worker = App("shop", broker="amqp://code//"), App("shop", broker="amqp://code//")
    assert worker.use_settings(loaded()).broker == producer.settings.broker


def test_only_a_worker_makes_the_results_store(tmp_path: Path) -> None:
    assert results_options(Settings()).create is False
    assert results_options(Settings(), create=True).create is True


def test_shared_object_is_made_once_by_whoever_comes_first() -> None:
    made, together = [], threading.Barrier(8)

    def make() -> object:
        made.append(object())
        return made[-1]

    shared = Shared(make)
    got: list[object] = []

    def use() -> None:
        together.wait(10)
        got.append(shared.get())

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1 and got == made * 8


def test_shared_object_whose_making_failed_is_made_at_the_next_try() -> None:
    answers = iter([OSError("down"), "up"])

    def make() -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    shared = Shared(make)
    with pytest.raises(OSError, match="down"):
        shared.get()
    assert shared.get() == "up"


def test_only_what_was_made_here_is_given_back_for_closing() -> None:
    shared = Shared(lambda: "made")
    assert shared.take() is None
    assert shared.get() == "made" == shared.take()
    assert shared.take() is None
    shared.set("given")
    assert shared.get() == "given" and shared.take() is None
    assert shared.get() == "made"


def test_forked_child_makes_its_own() -> None:
    shared = Shared(os.getpid)
    parent = shared.get()
    child = os.fork()
    if child == 0:
        os._exit(0 if shared.get() == os.getpid() != parent and shared.take() == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert shared.get() == parent


class Store:
    """The reading half of ResultStore, with records that tests put in; ``wait`` waits for no time at all."""

    def __init__(self) -> None:
        self.records: dict[str, ResultMeta] = {}
        self.waits: list[float] = []
        self.before_wait: Callable[[], Any] = lambda: None

    def get(self, task_id: str) -> ResultMeta | None:
        return self.records.get(task_id)

    def wait(self, task_id: str, timeout: float) -> ResultMeta:
        self.waits.append(timeout)
        self.before_wait()
        meta = self.records.get(task_id)
        if meta is None or meta.status not in {SUCCESS, FAILURE}:
            raise ResultTimeoutError("not yet")
        return meta

    def forget(self, task_id: str) -> None:
        self.records.pop(task_id, None)


@pytest.fixture
def store(app: App) -> Store:
    store = Store()
    app.use_results(store)  # type: ignore[arg-type]
    return store


def test_states_of_a_result(app: App, store: Store) -> None:
    result = app.AsyncResult("1")
    assert (result.state, result.status, result.ready(), result.result) == (PENDING, PENDING, False, None)
    store.records["1"] = ResultMeta("1", STARTED, {"pid": 3})
    assert (result.state, result.ready(), result.info) == (STARTED, False, {"pid": 3})
    store.records["1"] = ResultMeta("1", RETRY, ValueError("v"), traceback="Traceback ...")
    assert (result.state, result.ready(), result.failed(), result.traceback) == (RETRY, False, False, "Traceback ...")
    store.records["1"] = ResultMeta("1", SUCCESS, 4)
    assert (result.state, result.ready(), result.successful(), result.get(timeout=1)) == (SUCCESS, True, True, 4)
    result.forget()
    assert result.state == PENDING and store.records == {}
    assert result == AsyncResult("1", app) and str(result) == result.id == result.task_id == "1"


def test_get_raises_what_the_task_raised(app: App, store: Store) -> None:
    store.records["1"] = ResultMeta("1", FAILURE, KeyError("k"), traceback="Traceback ...")
    result = app.AsyncResult("1")
    with pytest.raises(KeyError, match="k"):
        result.get(timeout=1)
    assert repr(result.get(propagate=False)) == "KeyError('k')"
    assert result.failed() and result.ready() and not result.successful()


def test_get_waits_in_bounded_steps_for_as_long_as_it_takes(app: App, store: Store) -> None:
    def after_three() -> None:
        if len(store.waits) == 3:
            store.records["1"] = ResultMeta("1", SUCCESS, "done")

    store.before_wait = after_three
    assert app.AsyncResult("1").get() == "done"
    assert store.waits == [5.0, 5.0, 5.0]


def test_get_ends_with_its_timeout(app: App, store: Store) -> None:
    with pytest.raises(ResultTimeoutError, match="task 1: no result after 0 s"):
        app.AsyncResult("1").get(timeout=0)
    with pytest.raises(TimeoutError):
        app.AsyncResult("1").get(timeout=0.01)
    assert max(store.waits) <= 0.01


def test_final_results_are_read_once(app: App, store: Store) -> None:
    result = app.AsyncResult("1")
    store.records["1"] = ResultMeta("1", SUCCESS, 4)
    assert result.ready()
    del store.records["1"]
    assert result.get(timeout=0) == 4 and store.waits == []


def test_results_that_are_switched_off_are_told() -> None:
    app = App("shop", settings=loaded(GREENWORKER_RESULTS_URL="none"))
    assert open_results(app.settings, lambda: app.publisher).flush(0)
    with pytest.raises(ResultsError, match="switched off"):
        app.AsyncResult("1").get(timeout=1)
