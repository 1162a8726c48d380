"""The guardian: a native thread that hears every signal first, and ends the process if it does not end in time.

Why a native thread: in a green process the signals' listener, the shutdown and every timer are green threads. A task
that computes and never yields, or that blocks in C, keeps all of them from running; the interpreter gives native
threads their turns all the same (every 5 ms of pure Python, and whenever C code lets go of the interpreter).

Roads not taken: ``signal.alarm`` needs the main thread for its handler, and without one its exit status tells nothing;
``faulthandler.dump_traceback_later(exit=True)`` exits with 1 and belongs to whoever debugs. What no thread of this
process can end is C code that never lets go of the interpreter (a regular expression gone wild): that is what systemd's
TimeoutStopSec is for.

The rule this file keeps: nothing here takes a lock that a green thread may hold, logging's included, or waits in a
patched function. It would wait for ever for a green thread that cannot run.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

from greenworker.errors import EXIT_PUT_BACK
from greenworker.green.base import Library

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 60.0  # seconds in one wait; a signal or a new deadline ends it at once
_NAMED = frozenset(signal.Signals)
NO_SIGNAL = b"\0"  # wakes the thread for a new deadline

Patience = Callable[[signal.Signals], float | None]


class Guardian:
    """Reads the wake-up descriptor of the interpreter's signal handler.

    ``exit_code`` is what the process exits with if the guardian has to end it; the controller sets it when it knows
    better. The deadline is written by any thread, under ``_lock``, and only ever moves to an earlier moment.
    """

    def __init__(
        self, library: Library, patience: Patience, end_process: Callable[[int, int], None] | None = None
    ) -> None:
        """``patience``: how many seconds the process has left after a signal; None if that signal does not end it.

        It is called in the native thread. ``end_process`` is called there with the exit code and the identity of the
        thread that called ``start``.
        """
        self.exit_code = EXIT_PUT_BACK
        self._patience = patience
        self._end_process = end_process or end_process_now
        self._lock = library.original("_thread", "allocate_lock")()
        self._start_thread = library.original("_thread", "start_new_thread")
        self._thread_ident = library.original("_thread", "get_ident")
        self._poll = library.original("select", "poll")
        self._read = library.original("os", "read")
        self._write = library.original("os", "write")
        self._deadline: float | None = None
        self._writing = -1

    @property
    def counting(self) -> bool:
        """Whether there is a deadline: the process is to end, come what may."""
        return self._deadline is not None

    def start(self, pass_on: int) -> int:
        """Begin to listen; returns the descriptor for ``signal.set_wakeup_fd``.

        The numbers of signals are written to the descriptor ``pass_on``, which is the guardian's from then on.
        """
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        os.set_blocking(pass_on, False)
        self._start_thread(self._serve, (reading, pass_on, self._thread_ident()))
        return self._writing

    def end_within(self, seconds: float) -> None:
        """The process ends within so many seconds, by itself or not. Any thread may call it, at any time."""
        self._bring_forward(time.monotonic() + seconds)
        if self._writing >= 0:
            self._write(self._writing, NO_SIGNAL)

    def stop(self) -> None:
        """End the thread, unless it has a deadline to keep: then it stays until the process is gone. Harmless twice."""
        if self._writing >= 0 and not self.counting:
            writing, self._writing = self._writing, -1
            os.close(writing)

    def _bring_forward(self, deadline: float) -> None:
        with self._lock:
            self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)

    # --- in the native thread -----------------------------------------------------------------------------------

    def _serve(self, reading: int, pass_on: int, main_thread: int) -> None:
        try:
            poll = self._poll()
            poll.register(reading)
            while True:
                left = LOOK_INTERVAL if self._deadline is None else self._deadline - time.monotonic()
                if left <= 0:
                    self._end_process(self.exit_code, main_thread)
                    return
                if not poll.poll(min(left, LOOK_INTERVAL) * 1e3 + 1):
                    continue
                numbers = self._read(reading, 64)
                if not numbers:
                    return  # stopped
                self._hear(numbers.replace(NO_SIGNAL, b""), pass_on)
        finally:
            os.close(reading)
            os.close(pass_on)

    def _hear(self, numbers: bytes, pass_on: int) -> None:
        for number in numbers:
            if number not in _NAMED:
                continue  # a real-time signal of the app's
            seconds = self._patience(signal.Signals(number))
            if seconds is not None:
                self._bring_forward(time.monotonic() + seconds)
        try:
            self._write(pass_on, numbers)
        except OSError:
            pass  # full, so that there is enough to act on, or its reader has gone: the deadline is what counts


def end_process_now(exit_code: int, main_thread: int) -> None:
    """Say where the main thread is, and end. What is not acked, the broker delivers again."""
    try:
        frame = sys._current_frames().get(main_thread)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "nowhere\n"
        record = logger.makeRecord(
            *(logger.name, logging.CRITICAL, __file__, 0),
            "The worker does not end by itself: ending the process. The main thread is at:\n%s",
            (stack.rstrip(),),
            None,
        )
        for handler in logging.getLogger().handlers:
            os.write(2, handler.format(record).encode(errors="replace") + b"\n")  # not emit(): it takes locks
    finally:
        os._exit(exit_code)
