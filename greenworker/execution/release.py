"""What is given back after every task: database connections, and whatever ``[worker] release`` names.

Why it is needed: a database library keeps a connection for the thread that used it, and a green thread is one. A
thousand slots would soon hold a thousand connections, each idle until its slot's next task.

Rules this file keeps:

* It runs in the task's slot, after all code of the user's (body, hooks, signals, errbacks), whatever came of it. The
  outcome is on its way to the results store and the broker by then; neither is waited for.
* What a release raises is logged and changes nothing. One that hangs is ended after RELEASE_TIMEOUT, where the pool can
  interrupt its jobs; its slot is not used again.
"""

from __future__ import annotations

import importlib
import logging
import operator
from collections.abc import Callable, Sequence
from typing import Any

from greenworker.clock import Timer
from greenworker.errors import SettingsError
from greenworker.execution.bounded import Bounded, OvertimeError, let_throws_pass
from greenworker.execution.pool import Run
from greenworker.execution.request import Request

logger = logging.getLogger(__name__)

RELEASE_TIMEOUT = 10.0  # seconds: a database that does not take a goodbye in this time is gone

Release = Callable[[], object]


class Releases:
    """All that ``[worker] release`` names, in order."""

    def __init__(self, named: Sequence[tuple[str, Release]], timer: Timer, *, limits: bool) -> None:
        """``limits``: the pool can interrupt a running job."""
        self._named = named
        self._bounded = Bounded(timer, RELEASE_TIMEOUT, limits=limits)

    def __bool__(self) -> bool:
        return bool(self._named)

    def __call__(self, request: Request, run: Run) -> None:
        """Give everything back. Never raises."""
        let_throws_pass()  # a limit may have fired as the body ended
        for name, release in self._named:
            try:
                self._bounded.call(release, run)
            except OvertimeError as exc:
                logger.error("Task %s: [worker] release %s was ended: %s", request, name, exc)
            except BaseException:  # SystemExit, a put-back: the task has its outcome already, and keeps it
                logger.exception("Task %s: [worker] release %s failed", request, name)


def find_releases(names: Sequence[str]) -> list[tuple[str, Release]]:
    """What each name stands for. Raises SettingsError with every one that cannot be had."""
    found: list[tuple[str, Release]] = []
    problems: list[str] = []
    for name in names:
        try:
            found.append((name, _find(name)))
        except Exception as exc:  # a project's module may raise anything when it is imported
            problems.append(f"[worker] release: {name}: {type(exc).__name__}: {exc}")
    if problems:
        raise SettingsError(problems)
    return found


def _find(name: str) -> Release:
    if name == "django":
        return _django()
    kind, _, rest = name.partition(":")
    if kind == "sqlalchemy":
        if not rest:
            raise ValueError("expected the scoped_session to give back, sqlalchemy:package.module:Session")
        return _sqlalchemy(_attribute(rest))
    release = _attribute(name)
    if not callable(release):
        raise TypeError(f"expected something to call, got {release!r}")
    return release  # type: ignore[no-any-return]


def _attribute(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return operator.attrgetter(attribute)(importlib.import_module(module))


def _django() -> Release:
    """Close what this green thread has opened, however young it is.

    Not django.db.close_old_connections: it keeps a connection for CONN_MAX_AGE seconds, one in each slot. With Django's
    own pool (OPTIONS: pool) closing gives the connection to the pool, so that the next task need not open one.
    """
    connections = importlib.import_module("django.db").connections
    tuple(connections)  # Django's settings must be there, and this says so while the operator looks on

    def close_all() -> None:
        for connection in connections.all(initialized_only=True):
            connection.close()
            if connection.in_atomic_block:  # left in a transaction, it would refuse to connect for the next task
                del connections[connection.alias]

    return close_all


def _sqlalchemy(session: Any) -> Release:
    """``scoped_session.remove``: roll back what is open, and give the connection to the engine's pool.

    A session or connection that the task made itself is the task's to close (``with Session() as session:``).
    """
    if not callable(getattr(session, "remove", None)):
        raise TypeError(f"expected a sqlalchemy.orm.scoped_session, got {session!r}")
    remove: Release = session.remove
    return remove
