"""The half of an App that has its tasks: how functions, classes and modules come to be in it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

from greenworker.app.discovery import Discovery, Packages
from greenworker.app.naming import task_name
from greenworker.app.options import TaskOptions
from greenworker.app.registry import Registry
from greenworker.app.shared_tasks import set_current
from greenworker.app.task import Task as BaseTask

if TYPE_CHECKING:
    from greenworker.app.app import App


class Definitions:
    """Base of App."""

    def __init__(self, name: str, task_class: type[BaseTask], include: Sequence[str]) -> None:
        self.name = name
        self.tasks = Registry()
        self._task_class = _task_class(task_class)
        self._discoveries = [Discovery(tuple(include), None)]

    @overload
    def task(self, function: Callable[..., Any], /) -> BaseTask: ...

    @overload
    def task(
        self, *, base: type[BaseTask] | None = None, **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[..., Any]], BaseTask]: ...

    def task(
        self, function: Callable[..., Any] | None = None, *, base: type[BaseTask] | None = None, **options: Any
    ) -> BaseTask | Callable[[Callable[..., Any]], BaseTask]:
        """Make a task of a function: ``@app.task`` or ``@app.task(bind=True, max_retries=5, ...)``.

        ``base`` is the class of the task, a subclass of Task, by default the App's ``task_cls``.

        Raises AppError if another function has the task's name, TypeError for an unknown option.
        """
        if function is not None:
            return self._register(function, base, cast(TaskOptions, options))
        return lambda function: self._register(function, base, cast(TaskOptions, options))

    def _register(self, function: Callable[..., Any], base: type[BaseTask] | None, options: TaskOptions) -> BaseTask:
        if not callable(function) or inspect.isclass(function) or isinstance(function, BaseTask):
            raise TypeError(f"@app.task makes a task of a function, and got {function!r}")
        name = options.get("name") or task_name(self.name, function.__module__, function.__name__)
        base = _task_class(base or self._task_class)
        task = base.__new__(base)
        task.define(cast("App", self), name, options, function)
        task.__init__()  # type: ignore[misc]  # now: an __init__ of the user's finds a whole task
        return self.tasks.register(task)

    @property
    def Task(self) -> Any:  # noqa: N802 - Celery's name
        """The base of this App's class-based tasks: ``class Add(app.Task)``."""
        return type("Task", (self._task_class,), {"app": self})

    def register_task(self, task: BaseTask | type[BaseTask]) -> BaseTask:
        """Make a task of an instance of a class with a ``run`` of its own, or of such a class; returns the task.

        Its name is the class's ``name``, else the module and name of the class. Raises as ``task`` does.
        """
        if isinstance(task, type):
            task = _task_class(task)()
        cls = type(task)
        if not isinstance(task, BaseTask) or not callable(getattr(task, "run", None)):
            raise TypeError(f"register_task takes a subclass of Task that has a run method, and got {task!r}")
        name = cls.class_options.get("name") or task_name(self.name, cls.__module__, cls.__name__)
        task.define(cast("App", self), name, {}, None)
        return self.tasks.register(task)

    def autodiscover_tasks(
        self, packages: Packages | None = None, related_name: str | None = "tasks", force: bool = False
    ) -> None:
        """Have the module ``related_name`` of each of ``packages`` imported, where there is one.

        That is done when a worker or command has loaded the App, or at once with ``force``. ``packages`` may be a
        function that returns them; None stands for Django's installed apps. Without a ``related_name`` the packages
        themselves are imported.
        """
        self._discoveries.append(Discovery(packages, related_name))
        if force:
            self.import_tasks()

    def autodiscover(self, packages: Packages | None = None, module: str = "tasks") -> None:
        """``autodiscover_tasks`` under a shorter name."""
        self.autodiscover_tasks(packages, module)

    def import_tasks(self) -> None:
        """Import what ``include`` and ``autodiscover_tasks`` name, unless that was done.

        Raises AppError for a package that is not there, and what a module raises.
        """
        while self._discoveries:
            discovery = self._discoveries.pop(0)
            try:
                discovery.import_modules()
            except BaseException:
                self._discoveries.insert(0, discovery)
                raise

    def set_current(self) -> None:
        """Let shared tasks be sent through this App from now on; the App that was made last is current already."""
        set_current(cast("App", self))


def _task_class(given: Any) -> type[BaseTask]:
    if not (inspect.isclass(given) and issubclass(given, BaseTask)):
        raise TypeError(f"expected a subclass of greenworker.Task, got {given!r}")
    return given
