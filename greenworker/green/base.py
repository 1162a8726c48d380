"""What the rest of greenworker needs of a green-thread library beyond the patched standard library.

In a patched process ``threading``, ``time.sleep``, ``queue`` and ``socket`` are green already, so that the same code
serves gevent, eventlet and plain threads. What remains is what each library does its own way: waiting for a socket or
a ring, whichever comes first (LoopWaiter); starting, parking and interrupting the greenlets that tasks run in
(SlotRunner); being called from a native thread (HubCaller); and the functions as they were before patching.
``green/greens.py`` picks the Library for a pool.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class LoopWaiter(Protocol):
    """How one loop waits. Used by the greenlet (or thread) of that loop alone, but for ``ring``."""

    def wait(self, fd: int, timeout: float) -> bool:
        """Wait until ``fd`` is readable, ``ring`` was called, or ``timeout`` seconds are over.

        Returns True if ``fd`` is readable (or has failed: the read will tell). A ring since the last ``wait`` ends this
        one at once: other greenlets get a turn, but it does not sleep. Nothing else may wait for ``fd`` meanwhile, nor
        close it.
        """

    def ring(self) -> None:
        """End the wait, now or at its next call. Any greenlet or native thread may call it; it never blocks."""

    def close(self) -> None:
        """Give up what the waiter holds. Harmless twice."""


class SlotHandle(Protocol):
    """One greenlet (or thread) that runs jobs one after the other."""

    def park(self) -> bool:
        """Called inside the slot: wait for ``wake``.

        May return True without one, and may raise what code of others throws at the greenlet. Returns False if the
        greenlet was killed: the slot must end.
        """

    def wake(self) -> None:
        """Let the parked slot run on, soon. Called by any greenlet of the same hub, once for one ``park``."""

    def throw(self, exc: BaseException, still_wanted: Callable[[], bool]) -> None:
        """Raise ``exc`` in the slot where it waits, soon, if ``still_wanted()`` says True at that very moment.

        Never waits. Only where the runner's ``can_throw`` is True.
        """

    def renew_context(self) -> bool:
        """Called inside the slot: an empty ``contextvars.Context`` from here on, for the next job.

        Returns False where that can only be had with ``Context.run``, whose frame costs a sleeping greenlet 0.4 KB.
        """

    def clean(self) -> bool:
        """Undo what a job left behind on the greenlet; False if the next job would still meet something of it.

        Timeouts of the library that the job left running are cancelled; ``threading.local`` cannot be emptied. Called
        inside the slot, between two jobs. True where the library cannot tell.
        """


class SlotRunner(Protocol):
    """Starts slots."""

    can_throw: bool  # limits, put-back and terminate reach a running job

    def spawn(self, body: Callable[[SlotHandle], None]) -> None:
        """Start a new slot, soon, that runs ``body`` with its own handle, and ends with it."""


class HubCaller(Protocol):
    """Calls functions in the hub, for native threads."""

    def call(self, function: Callable[[], object]) -> None:
        """Have ``function`` called soon in the hub's thread. Any native thread may call it; it must not block."""

    def close(self) -> None:
        """Give up what the caller holds. Harmless twice."""


class Library(Protocol):
    """What one green-thread library (or none: plain threads) provides."""

    name: str  # "gevent", "eventlet" or "native"
    green: bool

    def make_waiter(self) -> LoopWaiter:
        """A waiter for the loop that calls this."""

    def make_runner(self) -> SlotRunner:
        """A runner whose slots live in the calling thread's hub."""

    def make_caller(self) -> HubCaller:
        """A caller into the calling thread's hub."""

    def original(self, module: str, name: str) -> Any:
        """``module.name`` as it was before patching."""

    def note_timeouts(self) -> None:
        """From now on the library's timeouts are noted on the greenlet that starts them, for ``SlotHandle.clean``.

        Call it once a process. Does nothing for plain threads.
        """

    def install_context_inheritance(self) -> None:
        """From now on a greenlet starts with a copy of the ``contextvars`` of the one that spawns it.

        Neither library does so by itself; log lines need it to carry the task's id in whatever a task spawns. Call it
        once a process. Does nothing for plain threads.
        """
