"""The solo pool: one job at a time, in the thread of the loop itself, between two of its turns."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

from greenworker.execution.pool import Capabilities, Job, PoolClosedError, RunState
from greenworker.worker.pool_run import JobRun

logger = logging.getLogger(__name__)


class SoloPool:
    """Implements execution/pool.Pool.

    ``submit`` only puts the job into the line, and the loop runs it with ``run_waiting``: run inside ``submit``, a job
    that came from the timer would run on the timer's thread, beside another one.
    """

    size = 1

    def __init__(self, capabilities: Capabilities, wake: Callable[[], None]) -> None:
        self.capabilities = capabilities
        self._wake = wake
        self._open = False
        self._line: deque[JobRun] = deque()
        self._current: JobRun | None = None

    @property
    def busy(self) -> int:
        return int(self._current is not None)

    @property
    def waiting(self) -> int:
        return len(self._line)

    def start(self) -> None:
        self._open = True

    def submit(self, job: Job, subject: Any = None) -> JobRun:
        if not self._open:
            raise PoolClosedError("the pool takes no jobs: it was not started, or was closed")
        run = JobRun(self, job, subject)
        self._line.append(run)
        self._wake()
        return run

    def run_waiting(self) -> bool:
        if self._current is not None:  # called again from within a job
            return False
        try:
            run = self._line.popleft()
        except IndexError:
            return False
        run.state = RunState.RUNNING
        self._current = run
        try:
            Context().run(run.job, run)
        except BaseException:  # as in any pool: the slot outlives its jobs
            logger.critical("an exception escaped from a job of the pool", exc_info=True)
        finally:
            run.interruptible = False
            run.state = RunState.ENDED
            self._current = None
        return True

    def grow(self, n: int) -> None:
        """One slot it is."""

    def shrink(self, n: int) -> None:
        """One slot it is."""

    def runs(self) -> list[JobRun]:
        current = self._current
        return [] if current is None else [current]

    def take_out(self, run: JobRun) -> bool:
        """See JobRun.cancel."""
        try:
            self._line.remove(run)
        except ValueError:
            return False
        run.state = RunState.CANCELLED
        return True

    def close(self) -> None:
        self._open = False

    def join(self, timeout: float) -> bool:
        """Runs what waits, in the calling thread: nobody else would."""
        deadline = time.monotonic() + timeout
        while self._line and time.monotonic() < deadline:
            self.run_waiting()
        return not self._line and self._current is None

    def terminate(self, exc: BaseException) -> int:
        self._cancel_line()
        return 0

    def stop(self) -> None:
        self.close()
        self._cancel_line()

    def _cancel_line(self) -> None:
        for run in list(self._line):
            run.cancel()
