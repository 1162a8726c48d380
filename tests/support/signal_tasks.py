"""The same tasks and receivers for a greenworker and for a Celery worker: each signal is noted, and what it carries."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from tests.support.journal import note

OF_TASKS = (
    "task_received",
    "task_prerun",
    "task_postrun",
    "task_success",
    "task_failure",
    "task_retry",
    "task_revoked",
)
OF_MESSAGES = ("before_task_publish", "after_task_publish", "task_unknown", "task_rejected")
OF_WORKERS = ("worker_init", "worker_ready", "worker_shutting_down", "worker_shutdown")
VALUES = ("state", "result", "retval", "exception", "expired", "terminated", "how", "sig", "name", "args", "kwargs")


def define(app: Any, errors: Any) -> None:
    """Give ``app``, of either kind, the tasks; ``errors`` has its Reject and Ignore."""

    @app.task(name="signals.add")  # type: ignore[untyped-decorator]
    def add(x: int, y: int = 0) -> int:
        return x + y

    @app.task(name="signals.fails")  # type: ignore[untyped-decorator]
    def fails() -> None:
        raise KeyError("on purpose")

    @app.task(name="signals.retried", bind=True)  # type: ignore[untyped-decorator]
    def retried(self: Any) -> int:
        if not self.request.retries:
            raise self.retry(exc=OSError("once"), countdown=0)
        return int(self.request.retries)

    @app.task(name="signals.asks")  # type: ignore[untyped-decorator]
    def asks(for_what: str) -> None:
        raise errors.Reject("no", requeue=False) if for_what == "reject" else errors.Ignore()

    @app.task(name="signals.sends")  # type: ignore[untyped-decorator]
    def sends() -> None:
        add.delay(1, y=2)


def listen(signals: ModuleType, current: Callable[[], str | None]) -> None:
    """Note every signal of ``signals``; ``current`` is the id of the task that runs here."""
    for name in (*OF_TASKS, *OF_MESSAGES, *OF_WORKERS):
        getattr(signals, name).connect(_Noting(name, current), weak=False)


class _Noting:
    """Receives one signal."""

    def __init__(self, name: str, current: Callable[[], str | None]) -> None:
        self.name = name
        self._current = current

    def __call__(self, sender: Any = None, **arguments: Any) -> None:
        arguments.pop("signal")
        values = {name: _shown(arguments[name]) for name in VALUES if name in arguments}
        task = _task_of(self.name, sender, arguments)
        carried = {"keywords": sorted(arguments), "values": values, "task_id": _id_of(arguments)}
        note(event=self.name, of=task, current=self._current(), **carried)


def _shown(value: Any) -> Any:
    """For people, and to compare: of exceptions their class, since each side has its own way to print them."""
    if isinstance(value, BaseException):
        return type(value).__name__
    return value if value is None or isinstance(value, (bool, int, str)) else repr(value)


def _task_of(name: str, sender: Any, arguments: dict[str, Any]) -> str | None:
    """The name of the task that a signal is about."""
    if name == "task_received":
        return str(arguments["request"].name)
    if name in OF_TASKS:
        return str(sender.name)
    return str(sender) if name.endswith("publish") else None


def _id_of(arguments: dict[str, Any]) -> str | None:
    request = arguments.get("request")
    found = arguments.get("task_id") or (request.id if request is not None else None)
    return str(found) if found else None
