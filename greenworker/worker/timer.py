"""Timer: a heap of calls that are due later, and one thread (green when patched) that makes them.

Rules this file keeps: a cancelled entry stays in the heap until it is due or until such entries outnumber the live
ones, so that cancelling costs nothing and the heap stays bounded; a call that raises is logged and stops nothing.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from greenworker.bootsteps import Step
from greenworker.clock import Clock

if TYPE_CHECKING:
    from greenworker.worker.controller import WorkController

logger = logging.getLogger(__name__)

IDLE_INTERVAL = 60.0  # seconds between two looks at the heap when nothing is due
CALLS_A_TURN = 200  # then others get a turn: 100,000 entries due at once must not hold up the loop
PURGE_FLOOR = 64  # cancelled entries that may always stay
STOP_TIMEOUT = 5.0  # seconds that `stop` waits for a call that is being made


class HeapEntry:
    """Implements clock.TimerEntry. ``call`` is None once it was taken or cancelled; the timer's lock guards it."""

    __slots__ = ("_timer", "call")

    def __init__(self, timer: HeapTimer, call: Callable[[], None]) -> None:
        self._timer = timer
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self._timer.cancel(self)


class HeapTimer:
    """Implements clock.Timer, for any number of greenlets and threads.

    Without ``start`` nothing is called but by ``run_due``: with a clock moved by hand, that is how tests use it.
    An entry costs about 180 bytes beside the function it calls.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Under the lock: the heap, its count of cancelled entries, and the flags.
        self._changed = threading.Condition(threading.Lock())
        self._heap: list[tuple[float, int, HeapEntry]] = []
        self._cancelled = 0
        self._numbers = itertools.count()  # entries due at the same time are called in the order they were made
        self._running = False
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """How many calls are to come."""
        return len(self._heap) - self._cancelled

    def call_at(self, deadline: float, call: Callable[[], None]) -> HeapEntry:
        entry = HeapEntry(self, call)
        with self._changed:
            item = (deadline, next(self._numbers), entry)
            heapq.heappush(self._heap, item)
            if self._heap[0] is item:  # due before everything the thread may be waiting for
                self._changed.notify()
        return entry

    def call_later(self, delay: float, call: Callable[[], None]) -> HeapEntry:
        return self.call_at(self._clock.monotonic() + delay, call)

    def start(self) -> None:
        """Begin to make calls. Harmless twice."""
        with self._changed:
            if self._running:
                return
            self._running = True
            self._thread = threading.Thread(target=self._run, name="greenworker-timer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Make no more calls, and wait for the one that is being made. What was not due yet is dropped."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._running = False
            for item in self._heap:
                item[2].call = None
            self._heap.clear()
            self._cancelled = 0
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(STOP_TIMEOUT)
            if thread.is_alive():
                logger.warning("a call made by the timer has not ended after %g s; going on without it", STOP_TIMEOUT)

    def run_due(self, at_most: int = CALLS_A_TURN) -> int:
        """Make the calls that are due now, ``at_most`` of them, in order. Returns how many were made."""
        made = 0
        while made < at_most and (call := self._take_due()) is not None:
            made += 1
            try:
                call()
            except BaseException:  # also SystemExit and GreenletExit: the timer serves others, who still wait
                logger.exception("a call made by the timer failed")
        return made

    def cancel(self, entry: HeapEntry) -> None:
        """See HeapEntry.cancel."""
        with self._changed:
            if entry.call is None:
                return
            entry.call = None
            self._cancelled += 1
            if self._cancelled > PURGE_FLOOR and self._cancelled * 2 > len(self._heap):
                self._heap = [item for item in self._heap if item[2].call is not None]
                heapq.heapify(self._heap)
                self._cancelled = 0

    def _run(self) -> None:
        while self._wait():
            if self.run_due() == CALLS_A_TURN:
                time.sleep(0)

    def _wait(self) -> bool:
        """Wait until something is due. False: the timer was stopped."""
        with self._changed:
            while self._running:
                delay = self._heap[0][0] - self._clock.monotonic() if self._heap else IDLE_INTERVAL
                if delay <= 0:
                    return True
                self._changed.wait(min(delay, IDLE_INTERVAL))
            return False

    def _take_due(self) -> Callable[[], None] | None:
        with self._changed:
            while self._heap and self._heap[0][0] <= self._clock.monotonic():
                entry = heapq.heappop(self._heap)[2]
                if entry.call is not None:
                    call, entry.call = entry.call, None
                    return call
                self._cancelled -= 1
            return None


class Timer(Step["WorkController"]):
    """Owns ``worker.timer``."""

    name: ClassVar[str] = "timer"

    def create(self, parent: WorkController) -> None:
        self._timer = parent.timer = HeapTimer(parent.clock)

    def start(self, parent: WorkController) -> None:
        self._timer.start()

    def stop(self, parent: WorkController) -> None:
        self._timer.stop()
