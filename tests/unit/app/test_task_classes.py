"""Tasks whose class is the user's: options in its body, a ``run`` and ``__call__`` of its own, hooks, registering."""

from __future__ import annotations

from typing import Any

import pytest

from greenworker import App, Retry, Task
from greenworker.app.hooks import ExceptionInfo
from greenworker.settings.model import Settings, TaskSettings
from tests.support.recording import Project


def test_options_in_the_body_of_a_class(app: App) -> None:
    class Base(Task):
        max_retries = 5
        queue = "slow"
        autoretry_for = (KeyError,)

    class Further(Base):
        default_retry_delay = 1

    @app.task(base=Further, bind=True, default_retry_delay=2)
    def add(self: Task) -> Task:
        return self

    @app.task
    def plain() -> None: ...

    assert add() is add
    assert type(add) is Further
    assert (add.max_retries, add.queue, add.autoretry_for, add.default_retry_delay) == (5, "slow", (KeyError,), 2)
    assert (Further.max_retries, Further.default_retry_delay, Base.default_retry_delay) == (5, 1, None)
    assert (plain.max_retries, plain.queue) == (3, None)
    add.max_retries = 6
    assert (add.max_retries, add.given["max_retries"], Further.max_retries) == (6, 6, 5)


def test_options_of_a_mixin(app: App) -> None:
    class Patient:
        max_retries = None
        time_limit = 30.0

    class Base(Patient, Task):
        pass

    task = app.task(base=Base, name="shop.patient")(lambda: None)
    assert (task.max_retries, task.time_limit) == (None, 30.0)


def test_options_of_a_class_travel_in_its_messages(project: Project) -> None:
    class Base(Task):
        time_limit = 30.0
        queue = "slow"
        priority = 4
        serializer = "yaml"

    project.app.task(base=Base, name="shop.add")(lambda: None).delay()
    message = project.publisher.last
    assert (message.time_limit, message.priority, message.content_type) == (30.0, 4, "application/x-yaml")
    assert project.publisher.sent[-1].routing_key == "slow"


def test_a_wrong_option_in_the_body_is_told(app: App) -> None:
    class Base(Task):
        priority = 256

    with pytest.raises(ValueError, match=r"task shop\.add, priority: expected a whole number from 0 to 255"):
        app.task(base=Base, name="shop.add")(lambda: None)


def test_a_class_based_task(project: Project) -> None:
    app = project.app

    class Add(app.Task):  # type: ignore[misc, name-defined]
        max_retries = 1

        def __init__(self) -> None:
            self.seen: list[int] = []
            self.soft_time_limit = 3.0

        def run(self, x: int, y: int = 0) -> int:
            self.seen.append(x)
            return x + y

    class Named(Add):
        name = "shop.named"

    add = app.register_task(Add())
    assert add.name == f"{__name__}.Add"
    assert app.register_task(Named).name == "shop.named"
    assert (add(1, y=2), add.seen, add.max_retries, add.soft_time_limit) == (3, [1], 1, 3.0)
    add.delay(1)
    assert project.publisher.last.task == add.name
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        add.delay(1, z=3)


def test_what_cannot_be_registered(app: App) -> None:
    class Empty(app.Task):  # type: ignore[misc, name-defined]
        pass

    class Stranger:
        def run(self) -> None: ...

    for wrong in (Empty(), Stranger(), 7):
        with pytest.raises(TypeError, match="register_task takes a subclass of Task that has a run method"):
            app.register_task(wrong)  # type: ignore[arg-type]
    for make in (
        lambda: App("x", task_cls=Stranger),  # type: ignore[arg-type]
        lambda: app.task(base=Stranger)(print),  # type: ignore[arg-type]
        lambda: app.register_task(Stranger),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=r"expected a subclass of greenworker\.Task"):
            make()


def test_the_class_of_an_app() -> None:
    class Base(Task):
        max_retries = 9

        def __init__(self) -> None:
            self.named_at_once = self.name

    app = App("shop", task_cls=Base, settings=Settings())
    task = app.task(name="shop.add")(lambda: None)
    assert (type(task), task.max_retries, task.named_at_once) == (Base, 9, "shop.add")
    assert issubclass(app.Task, Base)
    assert app.Task.app is app


class InContext(Task):
    """As Flask's documentation has it, and a second one that calls on through the class above."""

    inside = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        InContext.inside = True
        try:
            return super().__call__(*args, **kwargs)
        finally:
            InContext.inside = False


def test_a_call_of_its_own_wraps_the_body_and_keeps_the_request(app: App) -> None:
    @app.task(base=InContext, bind=True, name="shop.seen")
    def seen(self: Task) -> list[Any]:
        return [InContext.inside, self.request.called_directly, self.request.id is not None]

    assert seen() == [True, True, False]
    assert seen.apply().get() == [True, False, True]


def test_hooks_are_found_when_the_class_is_made(app: App) -> None:
    class Mixin:
        def on_success(self, *told: Any) -> None: ...

    class Base(Mixin, Task):
        def after_return(self, *told: Any) -> None: ...

    class Further(Base):
        pass

    assert Task.hooks == frozenset()
    assert Further.hooks == {"on_success", "after_return"}
    assert app.task(name="shop.plain")(lambda: None).hooks == frozenset()


class Told(Task):
    """Keeps what its hooks are told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def before_start(self, *told: Any) -> None:
        self.told.append(("before_start", *told))

    def on_success(self, *told: Any) -> None:
        self.told.append(("on_success", *told))

    def on_failure(self, *told: Any) -> None:
        self.told.append(("on_failure", *told))

    def on_retry(self, *told: Any) -> None:
        self.told.append(("on_retry", *told))

    def after_return(self, *told: Any) -> None:
        self.told.append(("after_return", *told))


def test_hooks_of_an_eager_run() -> None:
    app = App("shop", task_cls=Told, settings=Settings(task=TaskSettings(default_retry_delay=0)))

    @app.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    add.apply((1,), {"y": 2}, task_id="id-1")
    run = ("id-1", (1,), {"y": 2})
    assert add.told == [("before_start", *run), ("on_success", 3, *run), ("after_return", "SUCCESS", 3, *run, None)]

    @app.task(name="shop.fail", bind=True)
    def fail(self: Task) -> None:
        error = ValueError("no")
        raise error if self.request.retries else self.retry(exc=error)

    fail.apply(task_id="id-2")
    assert [name for name, *_ in fail.told] == [
        "before_start",
        "on_retry",
        "before_start",
        "on_failure",
        "after_return",
    ]
    _, error, task_id, _, _, einfo = fail.told[3]
    assert (repr(error), task_id, einfo.exception, einfo.type) == ("ValueError('no')", "id-2", error, ValueError)
    assert isinstance(einfo, ExceptionInfo)
    assert "in fail" in einfo.traceback == str(einfo)
    assert fail.told[4][1:4] == ("FAILURE", error, "id-2")
    assert isinstance(fail.told[1][1], ValueError)
    assert not isinstance(fail.told[1][5].exception, Retry)


def test_serializer_and_compression_hold_from_definition_to_the_wire(project: Project) -> None:
    app = project.app
    app.task(name="shop.packed", serializer="msgpack", compression="gzip")(lambda x: x).delay("ü" * 500)
    envelope = project.publisher.sent[-1].envelope
    assert envelope.content_type == "application/x-msgpack"
    assert envelope.headers["compression"] == "application/x-gzip"
    assert len(envelope.body) < 500
    assert project.publisher.last.args == ["ü" * 500]

    task = app.tasks["shop.packed"]
    task.apply_async(("x",), serializer="json", compression=None)
    envelope = project.publisher.sent[-1].envelope
    assert (envelope.content_type, envelope.headers.get("compression")) == ("application/json", None)
    again = app.outgoing_retry(project.publisher.messages[0], Retry(), "celery").envelope
    assert (again.content_type, again.headers["compression"]) == ("application/x-msgpack", "application/x-gzip")
