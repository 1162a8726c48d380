"""shared_task: tasks of a package that belongs to no App; each App of the process has them all.

The house keeps no state in modules; ``_PROCESS`` below is an exception, and with the receivers of signals the only one.
A shared task is defined while its module is imported, by code that knows no App, perhaps before there is any. So what
was defined must wait where every App finds it, and the process is all that the two share. The current App is kept there
for the same reason: a shared task that is sent, or a signature of nothing but a name, has nothing else to find out
through which App. Nothing else asks for it: all that has an App in hand uses that one.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

from greenworker.app.naming import task_name
from greenworker.app.options import TaskOptions
from greenworker.errors import AppError

if TYPE_CHECKING:
    from greenworker.app.app import App
    from greenworker.app.task import Task

Key = tuple[str | None, str, str]


class Definition:
    """A function and its options, from which any App can make a task of its own."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.function = function
        self.options = options

    @property
    def key(self) -> Key:
        """What a module that is imported anew defines again, and does not add to."""
        return self.options.get("name"), self.function.__module__, self.function.__qualname__

    def name(self, app: App) -> str:
        """The task's name in ``app``."""
        given: str | None = self.options.get("name")
        return given or task_name(app.name, self.function.__module__, self.function.__name__)

    def register(self, app: App) -> Task:
        """Make it a task of ``app``. Raises what ``app.task`` raises."""
        task: Task = app.task(**self.options)(self.function)
        return task


class Process:
    """Written by whoever defines a shared task or makes an App, which both happen as modules are imported."""

    def __init__(self) -> None:
        self.definitions: dict[Key, Definition] = {}
        self.apps: weakref.WeakSet[App] = weakref.WeakSet()
        self.current: App | None = None


_PROCESS = Process()


class SharedTask:
    """Stands for the current App's task: everything but a call is asked of, or done to, that."""

    def __init__(self, definition: Definition) -> None:
        function = definition.function
        vars(self).update(
            _definition=definition,
            __wrapped__=function,
            **{name: getattr(function, name) for name in ("__name__", "__qualname__", "__module__", "__doc__")},
        )

    def __repr__(self) -> str:
        return f"<shared task {self._definition.function.__module__}.{self._definition.function.__qualname__}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, here and now; that needs no App."""
        if _PROCESS.current is None:
            return self._definition.register(_app_of_none())(*args, **kwargs)
        return self._task()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python's own questions, which have an answer where there is no App too
            raise AttributeError(f"a shared task has no {name}")
        return getattr(self._task(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._task(), name, value)

    def _task(self) -> Task:
        app, definition = _PROCESS.current, self._definition
        if app is None:
            raise AppError(f"{self!r} cannot be sent: there is no App yet; import the module that makes it first")
        return app.tasks[definition.name(app)]


@overload
def shared_task(function: Callable[..., Any], /) -> Task: ...


@overload
def shared_task(*, base: type[Task] | None = None, **options: Unpack[TaskOptions]) -> Callable[..., Task]: ...


def shared_task(
    function: Callable[..., Any] | None = None, **options: Any
) -> Task | Callable[[Callable[..., Any]], Task]:
    """Make a task of a function in every App of the process, those to come included: ``@shared_task`` or
    ``@shared_task(bind=True, ...)``. What it returns stands for the task of the current App.

    Raises as ``app.task`` does; without an App yet, that comes when one is made.
    """
    if function is not None:
        return _share(function, options)
    return lambda function: _share(function, options)


def _share(function: Callable[..., Any], options: dict[str, Any]) -> Task:
    definition = Definition(function, options)
    for app in tuple(_PROCESS.apps):
        definition.register(app)
    _PROCESS.definitions[definition.key] = definition
    return cast("Task", SharedTask(definition))


def join_process(app: App) -> None:
    """Give a new App the shared tasks that there are, and from now on those to come."""
    for definition in tuple(_PROCESS.definitions.values()):
        definition.register(app)
    _PROCESS.apps.add(app)


def set_current(app: App) -> None:
    """Shared tasks are this App's from now on. A worker does it with the App it serves."""
    _PROCESS.current = app


def current_app() -> App | None:
    """The App that shared tasks are sent through; None before there is one."""
    return _PROCESS.current


def _app_of_none() -> App:
    """An App for the length of one call."""
    from greenworker.app.app import App

    return App("none", set_as_current=False)
