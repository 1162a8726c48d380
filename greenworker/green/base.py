"""What the rest of greenworker needs of a green-thread library beyond the patched standard library.

In a patched process ``threading``, ``time.sleep``, ``queue`` and ``socket`` are green already, so that one piece of code
serves gevent, eventlet and plain threads. Two things remain that each library does its own way: waiting for a socket or
a ring, whichever comes first (LoopWaiter), and starting, parking and interrupting the greenlets that tasks run in
(SlotRunner).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class LoopWaiter(Protocol):
    """How one loop waits. Used by the greenlet (or thread) of that loop alone, but for ``ring``."""

    def wait(self, fd: int, timeout: float) -> bool:
        """Wait until ``fd`` is readable, ``ring`` was called, or ``timeout`` seconds are over.

        Returns True if ``fd`` is readable (or has failed: the read will tell). A ring since the last ``wait`` ends this
        one at once: other greenlets get a turn, but it does not sleep.
        """

    def ring(self) -> None:
        """End the wait, now or at its next call. Any greenlet or native thread may call it; it never blocks."""

    def close(self) -> None:
        """Give up what the waiter holds. Harmless twice."""


class SlotHandle(Protocol):
    """One greenlet (or thread) that runs jobs one after the other."""

    def wake(self) -> None:
        """Let the parked slot run on, soon. Called by any greenlet of the same hub."""

    def throw(self, exc: BaseException, still_wanted: Callable[[], bool]) -> None:
        """Raise ``exc`` in the slot at its next switch, if ``still_wanted()`` says True at that very moment."""


class SlotRunner(Protocol):
    """Starts and parks slots."""

    can_throw: bool  # limits, put-back and terminate reach a running job

    def spawn(self, body: Callable[[SlotHandle], None]) -> SlotHandle:
        """Start a new slot that runs ``body`` with its own handle, and ends with it."""

    def park(self, handle: SlotHandle, timeout: float | None = None) -> None:
        """Called inside a slot: wait for ``wake``."""
