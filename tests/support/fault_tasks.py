"""The app of the fault and shutdown tests: tasks that hold on, clean up, refuse to end, or never yield."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

from greenlet import greenlet

from greenworker import App
from greenworker.app.context import worker_context
from tests.support.journal import note

app = App("faults")


@app.task(name="faults.work")
def work(seconds: float = 0.0) -> float:
    note(event="begin", pid=os.getpid())
    time.sleep(seconds)
    note(event="end", pid=os.getpid())
    return seconds


@app.task(name="faults.linked", ignore_result=True)
def linked(of: float, which: str) -> None:
    note(event=which, of=worker_context().parent_id)  # type: ignore[union-attr]


@app.task(name="faults.tidy", bind=True)
def tidy(self: object, seconds: float) -> int:
    retries: int = self.request.retries  # type: ignore[attr-defined]
    note(event="begin")
    try:
        time.sleep(seconds)
        note(event="end")
    finally:
        note(event="cleaned")
    return retries


@app.task(name="faults.stubborn")
def stubborn() -> None:
    note(event="begin")
    while True:
        try:
            time.sleep(0.1)
        except BaseException:
            pass  # on purpose: the worker has to end all the same


@app.task(name="faults.spin")
def spin() -> None:
    note(event="begin")
    while True:
        pass


@app.task(name="faults.early", acks_late=False)
def early(seconds: float) -> None:
    note(event="begin")
    time.sleep(seconds)
    note(event="end")


@app.task(name="faults.leaves_thread")
def leaves_thread() -> None:
    threading.Thread(target=threading.Event().wait, daemon=False).start()
    note(event="end")


@app.task(name="faults.census")
def census() -> None:
    gc.collect()
    greenlets = sum(isinstance(each, greenlet) and not each.dead for each in gc.get_objects())
    note(event="census", greenlets=greenlets, files=len(list(Path("/proc/self/fd").iterdir())))
