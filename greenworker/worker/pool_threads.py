"""The pool of threads: SlotPool with a lock around everything that more than one thread touches.

The waiting in ``park`` and ``join`` is outside of it. The lock is one that its holder may take again, because these
methods call each other.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from greenworker.execution.pool import Capabilities, Job
from greenworker.green.base import SlotHandle, SlotRunner
from greenworker.worker.pool_run import JobRun
from greenworker.worker.pool_slots import Slot, SlotPool

logger = logging.getLogger(__name__)


class ThreadPool(SlotPool):
    """Implements execution/pool.Pool for threads; any thread may call it."""

    def __init__(self, runner: SlotRunner, size: int, capabilities: Capabilities, *, reuse: bool = True) -> None:
        super().__init__(runner, size, capabilities, reuse=reuse)
        self._lock = threading.RLock()

    def submit(self, job: Job, subject: Any = None) -> JobRun:
        with self._lock:
            return super().submit(job, subject)

    def grow(self, n: int) -> None:
        with self._lock:
            super().grow(n)

    def shrink(self, n: int) -> None:
        with self._lock:
            super().shrink(n)

    def runs(self) -> list[JobRun]:
        with self._lock:
            return super().runs()

    def take_out(self, run: JobRun) -> bool:
        with self._lock:
            return super().take_out(run)

    def close(self) -> None:
        with self._lock:
            super().close()

    def _begin(self, run: JobRun, handle: SlotHandle) -> bool:
        with self._lock:
            return super()._begin(run, handle)

    def _finish(self, slot: Slot, run: JobRun, handle: SlotHandle) -> bool:
        with self._lock:
            return super()._finish(slot, run, handle)

    def _lose(self, slot: Slot) -> None:
        with self._lock:
            super()._lose(slot)

    def _spawn(self, run: JobRun) -> None:
        try:
            super()._spawn(run)
        except RuntimeError:  # the system gives no more threads
            self._size = max(1, len(self._slots))
            self._line.appendleft(run)  # for a thread that is there, or for the next one that can be started
            logger.exception("no new thread can be started; the pool goes on with %d", len(self._slots))

    def _watch_drain(self) -> threading.Event | None:
        with self._lock:
            return super()._watch_drain()

    def _cancel_line(self) -> None:
        with self._lock:
            super()._cancel_line()
