"""What docs/from-celery.md calls the same and no other test shows: each is done to Celery and to greenworker alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import celery
import pytest

import greenworker
from greenworker import App, AsyncResult
from tests.support.recording import Project


@pytest.fixture(params=["celery", "greenworker"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """An app of each kind with one task, made by the same words."""
    if request.param == "celery":
        made: Any = celery.Celery("alike", broker="memory://", backend="cache+memory://", set_as_current=False)
    else:
        broker, results = f"sqlite:///{tmp_path}/broker.db", f"sqlite:///{tmp_path}/results.db"
        made = App("alike", broker=broker, backend=results, set_as_current=False)

    @made.task(name="alike.add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    yield made
    made.close()


def test_results_and_signatures_know_their_app(app: Any) -> None:
    result = app.AsyncResult("1")
    assert (result.app, result.id, result.task_id) == (app, "1", "1")
    assert app.tasks["alike.add"].s(1).app is app
    assert app.tasks["alike.add"].app is app


def test_what_signatures_can_do(app: Any) -> None:
    add = app.tasks["alike.add"]
    signature = add.s(1)
    assert (signature.type.name, signature.name, signature.subtask_type) == (add.name, add.name, None)
    more = signature.partial((2,), {"y": 3}, queue="q")
    assert (tuple(more.args), more.kwargs, more.options) == ((2, 1), {"y": 3}, {"queue": "q"})
    assert (tuple(signature.args), signature.kwargs) == ((1,), {})
    signature.set_immutable(True)
    assert signature.immutable
    assert tuple(signature.clone((5,)).args) == (1,)


def test_a_task_says_whether_it_checks_its_arguments(app: Any) -> None:
    @app.task(typing=False, name="alike.unchecked")
    def unchecked(x: int) -> int:
        return x

    assert (app.tasks["alike.add"].typing, unchecked.typing) == (True, False)
    with pytest.raises(TypeError):
        app.tasks["alike.add"].delay(1, 2, 3)


def test_a_call_says_where_replies_go() -> None:
    project = Project()
    project.app.send_task("alike.add", (1,), reply_to="somewhere")
    assert project.publisher.last.reply_to == "somewhere"


def test_a_request_has_what_its_message_has(app: Any) -> None:
    @app.task(bind=True, name="alike.asked")
    def asked(self: Any, x: int) -> list[Any]:
        request = self.request
        return [request.args, request.kwargs, request.id, request.retries, request.is_eager, request.headers]

    given = {"task_id": "i", "retries": 2, "headers": {"tenant": "a"}}
    args, *rest = asked.apply((1,), **given).get()
    assert (list(args), rest) == ([1], [{}, "i", 2, True, {"tenant": "a"}])


def test_a_group_is_in_the_request() -> None:
    app = Project().app

    @app.task(bind=True, name="alike.grouped")
    def grouped(self: Any) -> list[Any]:
        return [self.request.group, self.request.group_index]

    assert grouped.apply(group_id="g", group_index=4).get() == ["g", 4]


def test_arguments_of_the_app_by_celerys_names(tmp_path: Path) -> None:
    app = App("alike", broker="amqp://h", backend=f"sqlite:///{tmp_path}/r.db", include=["os"], set_as_current=False)
    assert app.settings.results.url == f"sqlite:///{tmp_path}/r.db"
    assert app.settings.broker.url == ("amqp://h",)


def test_wait_is_get() -> None:
    assert AsyncResult.wait is AsyncResult.get


def test_the_version_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "greenworker", "--version"], capture_output=True, text=True, timeout=30, check=True
    )
    assert greenworker.__version__ in done.stdout
