"""The tasks whose results are compared: the same functions, served by a greenworker App and by a Celery app.

``RESULT_BROKER`` and ``RESULT_BACKEND`` name the Celery app's URLs; greenworker's come from its INI file.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any


class ShopError(Exception):
    """An exception of the project's own."""


def add(x: int, y: int) -> int:
    return x + y


def give(value: Any) -> Any:
    return value


def give_many(size: int) -> str:
    return "é" * size


def give_time() -> Any:
    return {"when": datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)}


def fail(*args: Any) -> None:
    raise ShopError(*args)


def chained() -> None:
    try:
        raise KeyError("inner")
    except KeyError as exc:
        raise ShopError("outer") from exc


def unspeakable() -> None:
    raise ShopError(object())


def unstorable() -> object:
    return object()


def progress(self: Any, seconds: float) -> str:
    self.update_state(state="PROGRESS", meta={"done": 1})
    time.sleep(seconds)
    return "done"


def flaky(self: Any) -> int:
    if self.request.retries < 1:
        raise self.retry(exc=ShopError("again"), countdown=0.05)
    return int(self.request.retries)


PLAIN = (add, give, give_many, give_time, fail, chained, unspeakable, unstorable)
BOUND = (progress, flaky)


def define(app: Any) -> Any:
    """Make them tasks of ``app``, whichever kind it is."""
    for function in PLAIN:
        app.task(name=f"results.{function.__name__}")(function)
    for function in BOUND:
        app.task(name=f"results.{function.__name__}", bind=True)(function)
    return app
