"""gevent: its loop's watchers for waiting, bare greenlets for slots.

Whatever switches into a greenlet here runs in the hub, where the target is certainly not running.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import gevent
import gevent.monkey
from gevent import get_hub
from greenlet import GreenletExit, getcurrent, greenlet

from greenworker.green.base import HubCaller, LoopWaiter, SlotHandle, SlotRunner
from greenworker.green.timeouts import TIMEOUTS, cancel_pending, noting_start

READ = 1  # libev's EV_READ
SHORTEST_WAIT = 1e-6  # seconds: a repeating timer of 0 would never fire


class GeventWaiter:
    """One io watcher, one timer, one async watcher, all kept from wait to wait.

    ``_waiting`` is the greenlet inside ``wait``, written by it and by the watchers' callbacks. ``_rung`` is set by
    anyone and cleared by ``wait`` as its last act: whoever finds it set may leave it at that, because the loop looks at
    what it was rung for after that.
    """

    def __init__(self) -> None:
        self._hub = get_hub()
        self._waiting: greenlet | None = None
        self._rung = False
        self._readable = False
        self._fd = -1
        self._io: Any = None
        self._timeout = -1.0
        self._timer: Any = None
        # Not run_callback_threadsafe: a callback runs before the loop polls, so that a loop rung all the time would
        # never learn that its socket is readable. An async watcher's turn comes with the poll's.
        self._async: Any = self._hub.loop.async_(ref=False)
        self._async.start(self._end_wait)

    def wait(self, fd: int, timeout: float) -> bool:
        if fd != self._fd:
            self._watch(fd)
        if timeout != self._timeout:
            self._time(timeout)
        self._readable = False
        if self._rung:  # its event may have come and gone while nobody waited
            self._async.send()
        self._waiting = getcurrent()
        try:
            self._io.start(self._on_readable)
            self._timer.again(self._on_timeout)
            while self._waiting is not None:
                self._hub.switch()
        finally:
            self._waiting = None
            self._timer.stop()
            self._io.stop()
        self._rung = False
        return self._readable

    def ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._async.send()

    def close(self) -> None:
        self._rung = True  # rings that come later find it, and leave the closed watcher alone
        for watcher in (self._io, self._timer, self._async):
            if watcher is not None:
                watcher.close()
        self._io = self._timer = self._async = None

    def _watch(self, fd: int) -> None:
        if self._io is not None:
            self._io.close()
        self._io = self._hub.loop.io(fd, READ)
        # Before the ring's callback when both are due in one turn, so that a wait ended by both says "readable".
        self._io.priority = self._hub.loop.MAXPRI
        self._fd = fd

    def _time(self, timeout: float) -> None:
        if self._timer is not None:
            self._timer.close()
        # A repeating one, for again(): start() would count on from where the last wait left it, down to nothing.
        self._timer = self._hub.loop.timer(0.0, max(SHORTEST_WAIT, timeout))
        self._timeout = timeout

    def _on_readable(self) -> None:
        self._readable = True
        self._end_wait()

    def _on_timeout(self) -> None:
        # libev does not notice a socket that was closed and another one that got its number, if the hub had no turn
        # between. A fresh watcher makes it look; a fresh one for each wait would cost a third of the wait.
        self._fd = -1
        self._end_wait()

    def _end_wait(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.switch()


class GeventSlot:
    """A bare greenlet under the hub: half the memory of a gevent.Greenlet, and started in half the time."""

    __slots__ = ("_greenlet", "_hub", "_parked")

    def __init__(self, body: Callable[[SlotHandle], None], hub: Any) -> None:
        self._greenlet = greenlet(body, hub)
        self._hub = hub
        self._parked = False
        hub.loop.run_callback(self._greenlet.switch, self)

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
        self._hub.loop.run_callback(self._wake_now)

    def throw(self, exc: BaseException, still_wanted: Callable[[], bool]) -> None:
        self._hub.loop.run_callback(self._throw_now, exc, still_wanted)

    def renew_context(self) -> bool:
        self._greenlet.gr_context = contextvars.Context()
        return True

    def clean(self) -> bool:
        left = self._greenlet.__dict__
        cancel_pending(left.pop(TIMEOUTS, ()))
        # gevent's threading.local, and the tree locals of whatever was spawned, leave a key on the greenlet.
        return not left

    def _wake_now(self) -> None:
        # A switch that was meant for an earlier wait may have come first; the job must not get this one in its sleep.
        if self._parked:
            self._greenlet.switch()

    def _throw_now(self, exc: BaseException, still_wanted: Callable[[], bool]) -> None:
        if still_wanted():
            self._greenlet.throw(exc)


class GeventRunner:
    """Slots in the calling thread's hub."""

    can_throw = True

    def __init__(self) -> None:
        self._hub = get_hub()

    def spawn(self, body: Callable[[SlotHandle], None]) -> None:
        GeventSlot(body, self._hub)


class GeventCaller:
    """gevent's own thread-safe callbacks."""

    def __init__(self) -> None:
        self._loop: Any = get_hub().loop

    def call(self, function: Callable[[], object]) -> None:
        self._loop.run_callback_threadsafe(function)

    def close(self) -> None:
        """Nothing is held."""


class GeventLibrary:
    """See green/base.Library."""

    name = "gevent"
    green = True

    def make_waiter(self) -> LoopWaiter:
        return GeventWaiter()

    def make_runner(self) -> SlotRunner:
        return GeventRunner()

    def make_caller(self) -> HubCaller:
        return GeventCaller()

    def original(self, module: str, name: str) -> Any:
        return gevent.monkey.get_original(module, name)

    def install_context_inheritance(self) -> None:
        # A set inside gevent: adding the same function again changes nothing. gevent.spawn_raw goes past it.
        gevent.Greenlet.add_spawn_callback(inherit_context)

    def note_timeouts(self) -> None:
        if not hasattr(gevent.Timeout.start, "greenworker_notes"):
            gevent.Timeout.start = noting_start(gevent.Timeout.start, getcurrent)


def inherit_context(spawned: greenlet) -> None:
    """Let a greenlet that was not started yet begin with a copy of the current context."""
    spawned.gr_context = contextvars.copy_context()


LIBRARY = GeventLibrary()
