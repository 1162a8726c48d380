"""The pool of slots: parked greenlets (or threads) that wait for a job, and jobs that wait for a slot.

Rules this file keeps:

* A slot is in exactly one place: parked, or with a job. It leaves through ``_finish`` or ``_lose`` alone, whatever its
  job raised, and as long as jobs wait a slot that leaves is replaced.
* What is thrown into a job reaches that job or nobody: see ``JobRun._admit``. A greenlet that was thrown into is not
  used again, because waits that were broken off may leave a late switch behind.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

from greenworker.execution.pool import Capabilities, Job, PoolClosedError, RunState
from greenworker.green.base import SlotHandle, SlotRunner
from greenworker.worker.pool_run import JobRun

logger = logging.getLogger(__name__)

# An enum's members are slow to reach in Python 3.11, and these are reached six times a job.
WAITING, RUNNING, ENDED, CANCELLED = RunState.WAITING, RunState.RUNNING, RunState.ENDED, RunState.CANCELLED
STOP_TIMEOUT = 5.0  # seconds that `stop` waits for jobs that nobody ended before


class Slot:
    """One place in the pool. ``run`` is set by whoever hands it a job; the slot itself clears it.

    ``wake`` is its handle's, there as soon as the slot has begun, so before it can be parked.
    """

    __slots__ = ("pool", "run", "wake")

    def __init__(self, pool: SlotPool, run: JobRun) -> None:
        self.pool = pool
        self.run: JobRun | None = run
        self.wake: Callable[[], None]

    def serve(self, handle: SlotHandle) -> None:
        """What its greenlet runs. A method, for a ``partial`` of the pool's would stay on the stack of each slot."""
        self.pool.serve(self, handle)


class SlotPool:
    """Implements execution/pool.Pool for green threads; ``ThreadPool`` adds what real ones need.

    ``_slots`` are all of them, ``_parked`` those without a job, the last one used is used next (its stack is warm, and
    the others stay untouched). ``_line`` is filled only while every slot has a job. There is no lock: all of this runs
    in one hub, and nothing here is switched out but in ``park`` and ``join``. (A green lock costs 1 us each time, which
    is a third of what starting a job may cost.)
    """

    def __init__(self, runner: SlotRunner, size: int, capabilities: Capabilities, *, reuse: bool = True) -> None:
        if size < 1:
            raise ValueError(f"a pool needs at least one slot, not {size}")
        self.capabilities = capabilities
        self._runner = runner
        self._can_throw = runner.can_throw
        self._size = size
        self._reuse = reuse
        self._open = False
        self._slots: set[Slot] = set()
        self._parked: list[Slot] = []
        self._line: deque[JobRun] = deque()
        self._drained: threading.Event | None = None

    @property
    def size(self) -> int:
        return self._size

    @property
    def busy(self) -> int:
        return len(self._slots) - len(self._parked)

    @property
    def waiting(self) -> int:
        return len(self._line)

    def start(self) -> None:
        self._open = True

    def submit(self, job: Job, subject: Any = None) -> JobRun:
        if not self._open:
            raise PoolClosedError("the pool takes no jobs: it was not started, or was closed")
        run = JobRun(self, job, subject)
        if self._parked:
            slot = self._parked.pop()
            slot.run = run
            slot.wake()
        elif len(self._slots) < self._size:
            self._spawn(run)
        else:
            self._line.append(run)
        return run

    def run_waiting(self) -> bool:
        return False

    def grow(self, n: int) -> None:
        self._size += n
        self._fill()

    def shrink(self, n: int) -> None:
        self._size = max(1, self._size - n)
        self._end_parked(len(self._slots) - self._size)

    def runs(self) -> list[JobRun]:
        runs = [slot.run for slot in self._slots]
        return [run for run in runs if run is not None and run.state is RUNNING]

    def take_out(self, run: JobRun) -> bool:
        """See JobRun.cancel. One that was handed to a slot already stays there, and is passed over."""
        if run.state is not WAITING:
            return False
        run.state = CANCELLED
        with contextlib.suppress(ValueError):
            self._line.remove(run)
        self._tell_if_drained()
        return True

    def close(self) -> None:
        self._open = False
        self._end_parked(len(self._parked))

    def join(self, timeout: float) -> bool:
        drained = self._watch_drain()
        return drained is None or drained.wait(timeout)

    def terminate(self, exc: BaseException) -> int:
        self._cancel_line()
        return sum(run.throw(exc) for run in self.runs())

    def stop(self) -> None:
        self.close()
        self._cancel_line()
        if not self.join(STOP_TIMEOUT):
            logger.warning("%d jobs still run after %g s; they are left behind", self.busy, STOP_TIMEOUT)

    def serve(self, slot: Slot, handle: SlotHandle) -> None:
        """A slot's life, run inside it."""
        slot.wake = handle.wake
        while (run := slot.run) is not None:  # None: woken to end
            if self._begin(run, handle):
                if handle.renew_context():
                    self._perform(run)
                else:
                    Context().run(self._perform, run)
            if not (self._finish(slot, run, handle) and self._wait(slot, handle)):
                return

    def _begin(self, run: JobRun, handle: SlotHandle) -> bool:
        """False if it was cancelled since it was handed over."""
        if run.state is not WAITING:
            return False
        run.state = RUNNING
        if self._can_throw:
            run.handle = handle
        return True

    @staticmethod
    def _perform(run: JobRun) -> None:
        try:
            run.job(run)
        except BaseException:  # whatever it is (SystemExit, GreenletExit): the slot outlives its jobs
            run.interruptible = False
            logger.critical("an exception escaped from a job of the pool", exc_info=True)
        finally:
            run.interruptible = False
            run.handle = None

    def _finish(self, slot: Slot, run: JobRun, handle: SlotHandle) -> bool:
        """Give up the job; take the next, or park, or leave. Returns False to leave."""
        if run.state is RUNNING:
            run.state = ENDED
        slot.run = None
        clean = handle.clean()
        stays = (
            self._reuse
            and run.interrupted is None
            and len(self._slots) <= self._size
            and (self._open or bool(self._line))
            and clean
        )
        if not stays:
            self._slots.discard(slot)
            self._fill()
        elif self._line:
            # Through the hub and not at once: a line of short jobs would keep the loop from its socket.
            slot.run = self._line.popleft()
            slot.wake()
        else:
            self._parked.append(slot)
        if self._drained is not None:
            self._tell_if_drained()
        return stays

    def _wait(self, slot: Slot, handle: SlotHandle) -> bool:
        """Park until there is a job. False: the slot must leave."""
        while True:
            try:
                alive = handle.park()
            except BaseException as exc:  # thrown late by code of a task that is over; the slot must not be lost by it
                logger.warning("a parked slot got a %s that was meant for a task before; it is replaced", repr(exc))
                alive = False
            if not alive:
                self._lose(slot)
                return False
            if slot.run is not None or slot not in self._slots:
                return True

    def _lose(self, slot: Slot) -> None:
        """Give up a slot whose greenlet must not go on, and find another one for the job it may have been handed."""
        self._slots.discard(slot)
        if slot in self._parked:
            self._parked.remove(slot)
        if slot.run is not None:
            self._line.appendleft(slot.run)
            slot.run = None
        self._fill()

    def _fill(self) -> None:
        """Start slots for those that wait, as many as may be."""
        while self._line and len(self._slots) < self._size:
            before = len(self._slots)
            self._spawn(self._line.popleft())
            if len(self._slots) == before:
                return  # there is none to be had, and the job is back in the line

    def _spawn(self, run: JobRun) -> None:
        slot = Slot(self, run)
        self._slots.add(slot)
        try:
            self._runner.spawn(slot.serve)
        except BaseException:
            self._slots.discard(slot)
            raise

    def _end_parked(self, count: int) -> None:
        """End up to ``count`` parked slots, those longest unused first."""
        count = min(max(0, count), len(self._parked))
        for slot in self._parked[:count]:
            self._slots.discard(slot)
            slot.wake()
        del self._parked[:count]

    def _cancel_line(self) -> None:
        for run in list(self._line):
            run.cancel()

    def _is_drained(self) -> bool:
        return not self._line and len(self._slots) == len(self._parked)

    def _watch_drain(self) -> threading.Event | None:
        """An event that is set when every job has ended; None if they have."""
        if self._is_drained():
            return None
        self._drained = self._drained or threading.Event()
        return self._drained

    def _tell_if_drained(self) -> None:
        if self._drained is not None and self._is_drained():
            drained, self._drained = self._drained, None
            drained.set()
