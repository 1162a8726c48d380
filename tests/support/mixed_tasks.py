"""The app that integration tests run: each task appends what it did to the file named by TASK_JOURNAL."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from typing import Any

from greenworker import App, Ignore, Reject, SoftTimeLimitExceeded
from greenworker.app.context import worker_context

app = App("mixed")
logger = logging.getLogger("mixed")


def note(**what: Any) -> None:
    """One line, appended in one write, so that many processes can share the file."""
    context = worker_context()
    line = {"id": context.id, "task": context.task, "retries": context.retries} if context else {}
    journal = os.open(os.environ["TASK_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(journal, (json.dumps({**line, "at": time.time(), **what}) + "\n").encode())
    os.close(journal)


@app.task(name="mixed.add")
def add(x: int, y: int = 0, *, z: int = 0) -> int:
    note(args=[x, y, z])
    return x + y + z


@app.task(name="mixed.nothing", ignore_result=True)
def nothing(*args: Any, **kwargs: Any) -> None:
    note()


@app.task(name="mixed.noop", ignore_result=True)
def noop() -> None:
    pass


@app.task(name="mixed.sleep")
def sleep(seconds: float) -> float:
    note(event="begin")
    time.sleep(seconds)
    note(event="end")
    return seconds


@app.task(name="mixed.fail")
def fail(text: str = "wrong") -> None:
    note()
    raise ValueError(text)


@app.task(name="mixed.flaky", bind=True, max_retries=3, default_retry_delay=0.05)
def flaky(self: Any, failures: int) -> int:
    note()
    if self.request.retries < failures:
        raise self.retry(exc=ValueError(f"try {self.request.retries}"))
    return int(self.request.retries)


@app.task(name="mixed.auto", autoretry_for=(OSError,), max_retries=2, retry_backoff=0.01, retry_jitter=False)
def auto() -> None:
    note()
    raise OSError("again")


@app.task(name="mixed.reject")
def reject(requeue: bool = False) -> None:
    note()
    raise Reject("not mine", requeue=requeue)


@app.task(name="mixed.ignore")
def ignore() -> None:
    note()
    raise Ignore


@app.task(name="mixed.early", acks_late=False)
def early(seconds: float = 0.0) -> None:
    note()
    time.sleep(seconds)


@app.task(name="mixed.soft", soft_time_limit=0.3)
def soft(catch: bool = True) -> str:
    began = time.monotonic()
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        note(after=time.monotonic() - began)
        if not catch:
            raise
    return "cleaned up"


@app.task(name="mixed.hard", time_limit=0.3)
def hard(swallow: bool = False) -> None:
    note()
    try:
        time.sleep(30)
    except BaseException:
        if not swallow:
            raise


@app.task(name="mixed.limited", rate_limit="20/s")
def limited() -> None:
    note()


@app.task(name="mixed.unstorable")
def unstorable() -> object:
    note()
    return object()


class Unspeakable(Exception):  # noqa: N818
    """Cannot be encoded: its argument is an object."""


@app.task(name="mixed.unspeakable")
def unspeakable() -> None:
    note()
    raise Unspeakable(object())


@app.task(name="mixed.exit")
def exits(kind: str = "SystemExit") -> None:
    note()
    raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt, "GeneratorExit": GeneratorExit}[kind]


@app.task(name="mixed.coroutine")
async def coroutine(seconds: float = 0.01) -> str:
    await asyncio.sleep(seconds)
    note()
    return "awaited"


@app.task(name="mixed.coroutine_hard", time_limit=0.3)
async def coroutine_hard() -> None:
    try:
        await asyncio.sleep(30)
    finally:
        note()


@app.task(name="mixed.logs", bind=True)
def logs(self: Any) -> None:
    logger.warning("from the task")
    child = threading.Thread(target=logger.warning, args=("from a greenlet it spawned",))
    child.start()
    child.join()


@app.task(name="mixed.progress", bind=True)
def progress(self: Any) -> None:
    self.update_state(state="PROGRESS", meta={"done": 1})
    note()
    time.sleep(0.5)


@app.task(name="mixed.publishes")
def publishes(n: int) -> None:
    for number in range(n):
        nothing.delay(number)
    note()
