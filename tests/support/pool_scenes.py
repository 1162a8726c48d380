"""What scenes in a patched process need to drive a pool: imported there, by ``run_patched`` sources."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from greenworker.execution.pool import Pool
from greenworker.green.greens import library
from greenworker.worker.pool import make_pool


def started_pool(name: str, size: int, *, reuse: bool = True) -> Pool:
    """A pool of that name, started."""
    pool = make_pool(name, library(name), size, reuse=reuse, wake=lambda: None)
    pool.start()
    return pool


def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Let others run until ``condition()`` is true. Raises AssertionError after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.001)


class Gate:
    """A job body that waits to be let through; knows how many wait in it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.inside = 0

    def __call__(self, run: object = None) -> None:
        self.inside += 1
        try:
            self._open.wait(20)
        finally:
            self.inside -= 1

    def open(self) -> None:
        """Let all through, now and later."""
        self._open.set()
