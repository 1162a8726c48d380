"""The app of the load and queue tests: tasks that do next to nothing. Each leaves a line in the file TASK_JOURNAL."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from greenworker import App
from tests.support.journal import VARIABLE

app = App("load")
journal = os.open(os.environ.get(VARIABLE, os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
released = threading.Event()


def mark(*words: object) -> None:
    """One line, in one write: its place in the file tells when."""
    os.write(journal, (" ".join(map(str, words)) + "\n").encode())


@app.task(name="load.mark", ignore_result=True)
def leave_mark(text: str) -> None:
    mark(text)


@app.task(name="load.mark_later", ignore_result=True)
def leave_mark_later(text: str) -> None:
    """Ends when the loop is back in its wait, where only a wake-up brings it to the ack."""
    time.sleep(0.002)
    mark(text)


@app.task(name="load.mark_id", ignore_result=True, bind=True)
def leave_id(self: Any) -> None:
    """Its id, and the wall clock."""
    mark(self.request.id, time.time())


@app.task(name="load.mark_latency", ignore_result=True)
def leave_latency(sent_at: float) -> None:
    """Seconds since ``sent_at`` of the monotonic clock, which the whole machine shares."""
    mark(time.monotonic() - sent_at)


@app.task(name="load.sleep_until_released", ignore_result=True)
def sleep_until_released(number: int) -> None:
    """Asleep, and not in a wait for the release itself, which would be cheaper or dearer than a sleep."""
    mark("begin", number)
    while not released.is_set():
        time.sleep(1.0)
    mark("end", number)


@app.task(name="load.release", ignore_result=True)
def release() -> None:
    released.set()
