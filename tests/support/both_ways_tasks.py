"""The tasks of the cases that run both ways: the same functions for a greenworker App and for a Celery app.

Each notes its run in the journal, under its id, for what a result cannot tell: how often it ran, when, and under whom.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.support.journal import VARIABLE, Journal, note
from tests.support.worker import wait_until

HELD = 30.0  # seconds for which a task that is held waits to be let go


class ShopError(Exception):
    """An exception of the project's own."""


def ran(request: Any, **what: Any) -> None:
    """A line about this run, with the names that both kinds of request have."""
    note(id=request.id, retries=request.retries, parent=request.parent_id, root=request.root_id, **what)


def iso(moment: Any) -> str | None:
    """Celery's request has the text of a date where ours has the date."""
    return moment.isoformat() if isinstance(moment, datetime) else moment


def echo(self: Any, *args: Any, **kwargs: Any) -> Any:
    ran(self.request, args=repr(args))
    return [args, kwargs]


def told(self: Any) -> dict[str, Any]:
    """What the message said beside its arguments, and when it ran."""
    request = self.request
    ran(request)
    return {
        "at": time.time(),
        "eta": iso(request.eta),
        "expires": iso(request.expires),
        "headers": request.headers or {},
        "priority": request.delivery_info["priority"],
        "limits": list(request.timelimit or (None, None)),
        "own id": request.correlation_id == request.root_id == request.id,
    }


def fails(self: Any, *args: Any) -> None:
    ran(self.request)
    raise ShopError(*args)


def chained(self: Any) -> None:
    try:
        raise KeyError("inner")
    except KeyError as exc:
        raise ShopError("outer") from exc


def retries(self: Any, failures: int, **options: Any) -> int:
    """Fails so many times; ``options`` go to ``retry``."""
    ran(self.request)
    if self.request.retries < failures:
        raise self.retry(exc=ShopError(f"try {self.request.retries}"), **options)
    return int(self.request.retries)


def gives_up(self: Any) -> None:
    ran(self.request)
    raise self.retry(countdown=0)


def autoretries(self: Any, failures: int) -> int:
    """Fails so many times, and leaves it to ``autoretry_for`` when it runs again."""
    ran(self.request)
    if self.request.retries < failures:
        raise ShopError(f"try {self.request.retries}")
    return int(self.request.retries)


def sleeps(self: Any) -> None:
    """Ends by its limits alone."""
    ran(self.request)
    time.sleep(30)


def held(self: Any, gate: str, state: str | None = None) -> str:
    """Runs until the file ``gate`` is there, in a state of its own if it is given one."""
    if state is not None:
        self.update_state(state=state, meta={"done": 1})
    wait_until(Path(gate).exists, HELD, "the gate to open")
    return "let go"


def errback(request: Any, exc: BaseException, traceback: Any) -> None:
    note(id=request.id, errback=[type(exc).__name__, list(exc.args)])


PLAIN = (echo, told, fails, chained, sleeps, held)
BACKOFFS = {
    "doubling": {"retry_backoff": True, "retry_jitter": False},
    "from_two": {"retry_backoff": 2, "retry_jitter": False},
    "capped": {"retry_backoff": 8, "retry_backoff_max": 1, "retry_jitter": False},
    "jittered": {"retry_backoff": True, "retry_jitter": True},
    "constant": {"retry_kwargs": {"countdown": 0.5}},
}


def define(app: Any, asks: ModuleType, limit: type[Exception]) -> Any:
    """Make them tasks of ``app``, of either kind. ``asks`` has its Reject and Ignore, ``limit`` is its soft limit."""
    for function in PLAIN:
        app.task(name=f"shop.{function.__name__}", bind=True)(function)
    app.task(name="shop.errback")(errback)
    app.task(name="shop.held_started", bind=True, track_started=True)(held)
    app.task(name="shop.told_quietly", bind=True, ignore_result=True)(told)
    app.task(name="shop.retries", bind=True, default_retry_delay=1)(retries)
    app.task(name="shop.gives_up", bind=True, max_retries=1)(gives_up)
    for name, options in BACKOFFS.items():
        task = app.task(name=f"shop.retries_{name}", bind=True, max_retries=2, autoretry_for=(ShopError,), **options)
        task(autoretries)

    @app.task(name="shop.cleans_up", bind=True)  # type: ignore[untyped-decorator]
    def cleans_up(self: Any) -> str:
        ran(self.request)
        try:
            time.sleep(30)
        except limit:
            return "cleaned up"
        return "slept"

    @app.task(name="shop.rejects", bind=True, acks_late=True)  # type: ignore[untyped-decorator]
    def rejects(self: Any) -> None:
        ran(self.request)
        raise asks.Reject("not mine", requeue=False)

    @app.task(name="shop.rejects_once", bind=True, acks_late=True)  # type: ignore[untyped-decorator]
    def rejects_once(self: Any) -> int:
        """Gives its message back to the queue the first time."""
        ran(self.request)
        runs = len(Journal(Path(os.environ[VARIABLE])).of(self.request.id))
        if runs == 1:
            raise asks.Reject("later", requeue=True)
        return runs

    @app.task(name="shop.ignores", bind=True)  # type: ignore[untyped-decorator]
    def ignores(self: Any, state: str | None = None) -> None:
        ran(self.request)
        if state is not None:
            self.update_state(state=state, meta={"done": 1})
        raise asks.Ignore

    return app
