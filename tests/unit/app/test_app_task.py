"""Defining tasks, calling them directly, and what ``self.request`` is."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import celery
import pytest

from greenworker import App, Task
from greenworker.app.context import CURRENT, TaskContext, worker_context
from greenworker.app.task import Task as TaskClass
from greenworker.errors import AppError, NotRegistered
from greenworker.settings.model import Settings, TaskSettings


def nothing() -> None: ...


def test_decorator_works_with_and_without_parentheses(app: App) -> None:
    @app.task
    def plain(x: int) -> int:
        return x + 1

    @app.task(name="shop.named")
    def named(x: int) -> int:
        return x + 2

    assert isinstance(plain, Task) and isinstance(named, Task)
    assert plain(1) == 2 and named(1) == 3
    assert [task.name for task in app.tasks.values()] == [f"{__name__}.plain", "shop.named"]
    assert plain.__name__ == "plain" and plain.__module__ == __name__


@pytest.mark.parametrize("module", ["shop.tasks", "__main__", None])
def test_names_are_celerys(app: App, module: str | None) -> None:
    def add() -> None: ...

    add.__module__ = module  # type: ignore[assignment]
    theirs = celery.Celery("shop", set_as_current=False).task(add, lazy=False, shared=False)
    assert app.task(add).name == theirs.name


def test_bound_task_gets_itself(app: App) -> None:
    @app.task(bind=True)
    def bound(self: Task, x: int) -> Any:
        return self, x, self.request.called_directly

    assert bound(3) == (bound, 3, True)
    assert bound.run(3) == (bound, 3, True)


def test_request_of_a_worker_run_is_the_current_context(app: App) -> None:
    @app.task(bind=True, name="outer")
    def outer(self: Task) -> Any:
        return self.request

    @app.task(bind=True, name="inner")
    def inner(self: Task) -> Any:
        return self.request, worker_context(), outer()

    context = TaskContext(id="1", task="inner")
    token = CURRENT.set(context)
    try:
        own, found, called = inner.run()
        assert own is context and found is context
        assert called.called_directly and called.id is None and called.task == "outer"
        own, found, _ = inner()
        assert own.called_directly and found is context
        assert CURRENT.get() is context
    finally:
        CURRENT.reset(token)
    assert worker_context() is None


def test_request_of_a_directly_called_coroutine(app: App) -> None:
    @app.task(bind=True, name="fetch")
    async def fetch(self: Task, url: str) -> tuple[str, bool]:
        await asyncio.sleep(0)
        return url, self.request.called_directly

    async def main() -> Any:
        CURRENT.set(TaskContext(id="1", task="fetch"))
        return await fetch("a"), CURRENT.get()

    result, after = asyncio.run(main())
    assert result == ("a", True)
    assert after is not None and after.id == "1"
    assert fetch.is_coroutine
    assert not app.task(test_names_are_celerys, name="plain").is_coroutine


def test_request_outside_a_worker_has_celerys_defaults(app: App) -> None:
    @app.task(bind=True)
    def task(self: Task) -> None: ...

    request = task.request
    assert request.called_directly and request.id is None and request.retries == 0
    assert request.get("nothing", 7) == 7 and request.get("retries") == 0
    assert request.timelimit == (None, None)


def test_options_come_from_the_settings_unless_given() -> None:
    settings = Settings(task=TaskSettings(max_retries=7, acks_late=False, time_limit=9.0))
    app = App("shop", settings=settings)
    plain = app.task(lambda: None, name="plain")
    own = app.task(lambda: None, name="own", max_retries=None, acks_late=True, time_limit=None)
    assert (plain.max_retries, plain.acks_late, plain.time_limit) == (7, False, 9.0)
    assert (own.max_retries, own.acks_late, own.time_limit) == (None, True, None)
    plain.max_retries = 1
    assert plain.max_retries == 1 and own.max_retries is None


def test_later_settings_count_for_tasks_defined_before() -> None:
    app = App("shop", settings=Settings())
    task = app.task(lambda: None, name="t")
    assert task.max_retries == 3
    app.use_settings(Settings(task=TaskSettings(max_retries=5)))
    assert task.max_retries == 5


def test_defaults_are_celerys_but_for_late_acks(app: App) -> None:
    ours = app.task(lambda: None, name="t")
    theirs = celery.Celery("shop", set_as_current=False).task(nothing, name="t", lazy=False, shared=False)
    names = ["max_retries", "default_retry_delay", "rate_limit", "time_limit", "soft_time_limit", "ignore_result"]
    names += ["expires", "priority", "track_started", "serializer"]
    assert {name: getattr(ours, name) for name in names} == {name: getattr(theirs, name) for name in names}
    assert tuple(theirs.throws) == ours.throws == ()
    assert ours.acks_late and not theirs.acks_late


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"retry_backof": True}, TypeError, "did you mean 'retry_backoff'?"),
        ({"zzzz": True}, TypeError, "the options are"),
        ({"autoretry_for": ValueError}, TypeError, "write (ValueError,)"),
        ({"throws": ["ValueError"]}, TypeError, "expected exception classes, got 'ValueError'"),
        ({"time_limit": 5, "soft_time_limit": 6}, ValueError, "at most time_limit, 5 s; got 6 s"),
        ({"priority": 256}, ValueError, "priority: expected a whole number from 0 to 255, got 256"),
    ],
)
def test_wrong_options_are_told(app: App, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        app.task(name="shop.add", **options)(lambda: None)
    assert "shop.add" in str(caught.value) and words in str(caught.value)
    assert len(app.tasks) == 0


def test_two_functions_of_one_name_are_an_error(app: App) -> None:
    app.task(lambda: 1, name="shop.add")
    with pytest.raises(AppError) as caught:
        app.task(lambda: 2, name="shop.add")
    assert str(caught.value).count("test_app_task.py:") == 2


def test_the_same_function_again_takes_its_place(app: App) -> None:
    def define() -> TaskClass:
        @app.task(name="shop.add")
        def add() -> None: ...

        return add

    define()
    latest = define()
    assert app.tasks["shop.add"] is latest and len(app.tasks) == 1


@pytest.mark.parametrize("thing", [int, 5])
def test_only_functions_become_tasks(app: App, thing: Any) -> None:
    with pytest.raises(TypeError, match="makes a task of a function"):
        app.task(thing)


def test_unknown_name_names_the_nearest(app: App) -> None:
    app.task(lambda: 1, name="shop.add")
    with pytest.raises(NotRegistered, match=r"no task is named 'shop.ad' \(1 registered\); did you mean 'shop.add'\?"):
        app.tasks["shop.ad"]
    assert app.tasks.find("shop.ad") is None
    assert "shop.add" in app.tasks and list(app.tasks) == ["shop.add"]


def test_update_state_stores_for_the_current_run(app: App) -> None:
    stored = []

    class Store:
        def store(self, meta: Any, stored_call: Any = None) -> None:
            stored.append(meta)

    app.use_results(Store())  # type: ignore[arg-type]

    @app.task(bind=True, name="t")
    def task(self: Task) -> None:
        self.update_state(state="PROGRESS", meta={"done": 3})

    token = CURRENT.set(TaskContext(id="abc", task="t"))
    try:
        task.run()
    finally:
        CURRENT.reset(token)
    assert [(meta.task_id, meta.status, meta.result) for meta in stored] == [("abc", "PROGRESS", {"done": 3})]
    with pytest.raises(ValueError, match="needs a task_id"):
        task()
    with pytest.raises(ValueError, match="needs a state"):
        task.update_state(task_id="abc")


def test_expires_of_a_task_may_be_any_time(app: App) -> None:
    task = app.task(lambda: None, name="t", expires=timedelta(minutes=1).total_seconds())
    assert task.expires == 60
