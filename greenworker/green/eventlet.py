"""eventlet: its hub's listeners for waiting, GreenThreads for slots.

eventlet is being retired by its maintainers. Everything that greenworker does with it stands in this file and in one
function of ``patching.py``, so that both can go with it.
"""

from __future__ import annotations

import contextvars
import os
from collections import deque
from collections.abc import Callable
from typing import Any

import eventlet.greenthread
import eventlet.hubs
from eventlet import patcher
from greenlet import GreenletExit, getcurrent, greenlet

from greenworker.green.base import HubCaller, LoopWaiter, SlotHandle, SlotRunner
from greenworker.green.timeouts import TIMEOUTS, cancel_pending, noting_start


class Bell:
    """An eventfd that the hub listens to: the one way into an eventlet hub from a native thread.

    The hub sleeps through anything else, and its own lists are not safe to touch from outside.
    """

    def __init__(self, on_rung: Callable[[], None]) -> None:
        self._hub = eventlet.hubs.get_hub()
        self._on_rung = on_rung
        # Native: a ring must not reach a descriptor that was closed and given to another file meanwhile.
        self._closing = LIBRARY.original("_thread", "allocate_lock")()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._listener: Any = self._hub.add(self._hub.READ, self._fd, self._rung, self._rung, None)

    def ring(self) -> None:
        """Have ``on_rung`` called in the hub. From any native thread; does nothing after ``close``."""
        with self._closing:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        """Stop listening. Harmless twice."""
        with self._closing:
            if self._fd >= 0:
                self._hub.remove(self._listener)
                os.close(self._fd)
                self._fd = -1

    def _rung(self, fd: int) -> None:
        os.eventfd_read(fd)
        self._on_rung()


class EventletWaiter:
    """One listener a wait. To keep one from wait to wait, as gevent's waiter does, would break eventlet's rule of one
    reader a socket for whatever else reads it (the TLS goodbye at close); adding one costs two system calls.

    ``_waiting`` and ``_rung``: as in GeventWaiter.
    """

    def __init__(self) -> None:
        self._hub = eventlet.hubs.get_hub()
        self._thread_ident = LIBRARY.original("_thread", "get_ident")
        self._home = self._thread_ident()
        self._waiting: greenlet | None = None
        self._rung = False
        self._readable = False
        self._bell = Bell(self._end_wait)
        self._poll = LIBRARY.original("select", "poll")
        self._poll_in = LIBRARY.original("select", "POLLIN")

    def wait(self, fd: int, timeout: float) -> bool:
        self._readable = False
        self._waiting = getcurrent()
        if self._rung:  # its event may have come and gone while nobody waited
            timeout = 0.0
        timer = listener = None
        try:
            listener = self._hub.add(self._hub.READ, fd, self._on_readable, self._on_closed, None)
            timer = self._hub.schedule_call_global(max(0.0, timeout), self._end_wait)
            while self._waiting is not None:
                self._hub.switch()
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()
            if listener is not None:
                self._hub.remove(listener)
        self._rung = False
        return self._readable or self._is_readable(fd)

    def ring(self) -> None:
        if self._rung:
            return
        self._rung = True
        if self._thread_ident() == self._home:
            self._hub.schedule_call_global(0, self._end_wait)
        else:
            self._bell.ring()

    def close(self) -> None:
        self._rung = True  # rings that come later find it, and do nothing
        self._bell.close()

    def _is_readable(self, fd: int) -> bool:
        # The hub runs what is scheduled before it polls: a loop that is rung all the time would never be told.
        poll = self._poll()
        poll.register(fd, self._poll_in)
        return bool(poll.poll(0))

    def _on_readable(self, _fd: int) -> None:
        self._readable = True
        self._end_wait()

    def _on_closed(self, *_exc_info: Any) -> None:
        """The descriptor was closed under us: the read will tell."""
        self._readable = True
        self._end_wait()

    def _end_wait(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.switch()


class EventletSlot:
    """A GreenThread, not a bare greenlet: ``threading.current_thread()``, which every log line calls, is patched for
    GreenThreads alone and takes 50 times as long in anything else."""

    __slots__ = ("_greenlet", "_hub", "_parked")

    def __init__(self, body: Callable[[SlotHandle], None], hub: Any) -> None:
        self._hub = hub
        self._parked = False
        self._greenlet = eventlet.greenthread.spawn(body, self)

    def park(self) -> bool:
        """Wait for ``wake``, in the slot itself. False if the greenlet was killed."""
        self._parked = True
        try:
            self._hub.switch()
        except GreenletExit:
            return False
        finally:
            self._parked = False
        return True

    def wake(self) -> None:
        self._hub.schedule_call_global(0, self._wake_now)

    def throw(self, exc: BaseException, still_wanted: Callable[[], bool]) -> None:
        self._hub.schedule_call_global(0, self._throw_now, exc, still_wanted)

    def renew_context(self) -> bool:
        self._greenlet.gr_context = contextvars.Context()
        return True

    def clean(self) -> bool:
        """eventlet keeps ``threading.local`` in the local object, not on the greenlet: there is no way to tell."""
        cancel_pending(self._greenlet.__dict__.pop(TIMEOUTS, ()))
        return True

    def _wake_now(self) -> None:
        if self._parked:  # as in GeventSlot
            self._greenlet.switch()

    def _throw_now(self, exc: BaseException, still_wanted: Callable[[], bool]) -> None:
        if still_wanted():
            self._greenlet.throw(exc)


class EventletRunner:
    """Slots in the calling thread's hub."""

    can_throw = True

    def __init__(self) -> None:
        self._hub = eventlet.hubs.get_hub()

    def spawn(self, body: Callable[[SlotHandle], None]) -> None:
        EventletSlot(body, self._hub)


class EventletCaller:
    """A line of functions and a bell. ``_line`` is filled by any native thread and emptied by the hub."""

    def __init__(self) -> None:
        self._line: deque[Callable[[], object]] = deque()
        self._bell = Bell(self._run)

    def call(self, function: Callable[[], object]) -> None:
        self._line.append(function)
        self._bell.ring()

    def close(self) -> None:
        self._bell.close()

    def _run(self) -> None:
        while self._line:
            self._line.popleft()()


class EventletLibrary:
    """See green/base.Library."""

    name = "eventlet"
    green = True

    def make_waiter(self) -> LoopWaiter:
        return EventletWaiter()

    def make_runner(self) -> SlotRunner:
        return EventletRunner()

    def make_caller(self) -> HubCaller:
        return EventletCaller()

    def original(self, module: str, name: str) -> Any:
        return getattr(patcher.original(module), name)

    def note_timeouts(self) -> None:
        if not hasattr(eventlet.Timeout.start, "greenworker_notes"):
            eventlet.Timeout.start = noting_start(eventlet.Timeout.start, eventlet.getcurrent)

    def install_context_inheritance(self) -> None:
        """There is no hook, so the two places that every spawn goes through are wrapped, once."""
        if getattr(eventlet.greenthread, "greenworker_inherits", False):
            return
        green_thread = eventlet.greenthread.GreenThread
        eventlet.greenthread.greenworker_inherits = True
        green_thread.__init__ = inheriting_init(green_thread.__init__)
        eventlet.greenthread._spawn_n = inheriting_spawn_n(eventlet.greenthread._spawn_n)


def inheriting_init(original: Callable[..., None]) -> Callable[..., None]:
    """GreenThread.__init__ (spawn, spawn_after, GreenPool.spawn), with the current context copied."""

    def init(self: Any, parent: Any) -> None:
        original(self, parent)
        self.gr_context = contextvars.copy_context()

    return init


def inheriting_spawn_n(original: Callable[..., Any]) -> Callable[..., Any]:
    """greenthread._spawn_n (spawn_n, GreenPool.spawn_n, threading.Thread), with the current context copied."""

    def spawn_n(seconds: float, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        timer, spawned = original(seconds, func, args, kwargs)
        spawned.gr_context = contextvars.copy_context()
        return timer, spawned

    return spawn_n


LIBRARY = EventletLibrary()
