"""Releases that fail and hang, and one that counts, in front of tasks that read the count."""

from __future__ import annotations

import threading
import time

from greenworker import App
from greenworker.execution import release
from tests.support.journal import note

release.RELEASE_TIMEOUT = 0.2  # read when the worker is made, which is after this import

app = App("releases")
calls: list[None] = []


@app.task(name="release.count")
def counted() -> int:
    return len(calls)


@app.task(name="release.sleep")
def sleep() -> None:
    note(event="begin")
    time.sleep(30)


def noted() -> None:
    """Notes whose slot it runs in."""
    note(event="released")


def fail() -> None:
    """Raises what nobody expects."""
    raise SystemExit("a release that exits")


def hang() -> None:
    """Does not come back."""
    threading.Event().wait()


def count() -> None:
    """The last of them: it is called whatever came of the others."""
    calls.append(None)
