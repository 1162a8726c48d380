"""shared_task: one definition, a task in every App of the process. Each test has a process state of its own."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from greenworker import App, Task, shared_task
from greenworker.app import shared_tasks
from greenworker.app.shared_tasks import Process
from greenworker.errors import AppError
from greenworker.settings.model import Settings
from tests.support.recording import RecordingPublisher


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    process = Process()
    monkeypatch.setattr(shared_tasks, "_PROCESS", process)
    return process


def new_app(name: str, **options: Any) -> App:
    app = App(name, settings=Settings(), **options)
    app.use_publisher(RecordingPublisher())
    return app


def test_apps_made_later_and_earlier_have_it() -> None:
    before = new_app("before")

    @shared_task(bind=True, max_retries=7)
    def add(self: Task, x: int, y: int) -> list[Any]:
        return [x + y, self.app.name]

    @shared_task
    def plain() -> None: ...

    after = new_app("after")
    name = f"{__name__}.add"
    for app in (before, after):
        assert app.tasks[name].app is app
        assert app.tasks[name].max_retries == 7
        assert set(app.tasks) == {name, f"{__name__}.plain"}
    assert add.name == name
    assert add(1, 2) == [3, "after"]


def test_it_is_sent_through_the_current_app() -> None:
    @shared_task
    def add(x: int) -> int:
        return x

    first, second = new_app("first"), new_app("second")
    new_app("aside", set_as_current=False)
    add.delay(1)
    first.set_current()
    add.s(2).delay()
    assert [message.args for message in second.publisher.messages] == [[1]]  # type: ignore[attr-defined]
    assert [message.args for message in first.publisher.messages] == [[2]]  # type: ignore[attr-defined]


def test_what_is_assigned_is_assigned_to_the_task() -> None:
    @shared_task
    def add() -> None: ...

    app = new_app("shop")
    add.max_retries = 9
    assert app.tasks[add.name].max_retries == 9


def test_without_an_app_it_can_be_called_and_not_sent() -> None:
    @shared_task(bind=True)
    def add(self: Task, x: int) -> list[Any]:
        """Adds."""
        return [x, self.request.called_directly]

    assert add(1) == [1, True]
    assert (add.__name__, add.__doc__, add.__module__) == ("add", "Adds.", __name__)
    with pytest.raises(AppError, match=r"test_shared_tasks\..*add> cannot be sent: there is no App yet"):
        add.delay(1)
    assert not hasattr(add, "__no_such_thing__")


def test_a_base_class_and_a_name() -> None:
    class Base(Task):
        max_retries = 5

    @shared_task(base=Base, name="shop.add")
    def add() -> None: ...

    app = new_app("shop")
    assert type(app.tasks["shop.add"]) is Base
    assert add.max_retries == 5


def test_a_module_imported_anew_adds_nothing(process: Process) -> None:
    app = new_app("shop")
    for _ in range(2):

        @shared_task
        def add() -> None: ...

    assert len(process.definitions) == len(app.tasks) == 1


def test_two_functions_of_one_name_are_told() -> None:
    app = new_app("shop")
    shared_task(name="shop.add")(lambda: 1)
    with pytest.raises(AppError, match=r"two tasks are named 'shop\.add'"):
        shared_task(name="shop.add")(lambda: 2)
    assert app.tasks["shop.add"]() == 1
    new_app("other")  # what was refused is not kept


def test_an_app_that_is_gone_is_not_kept(process: Process) -> None:
    new_app("gone", set_as_current=False)
    gc.collect()
    assert list(process.apps) == []
