"""No green threads: poll and an eventfd for waiting, threads for slots. Serves the pools ``threads`` and ``solo``."""

from __future__ import annotations

import importlib
import os
import select
import threading
from collections.abc import Callable
from typing import Any

from greenworker.green.base import HubCaller, LoopWaiter, SlotHandle, SlotRunner


class NativeWaiter:
    """poll() over the loop's descriptor and an eventfd. ``_rung``: as in GeventWaiter."""

    def __init__(self) -> None:
        self._rung = False
        self._fd = -1
        self._closing = threading.Lock()  # a ring must not reach a descriptor that was closed and given to another file
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)

    def wait(self, fd: int, timeout: float) -> bool:
        if fd != self._fd:
            self._watch(fd)
        ready = [found for found, _event in self._poll.poll(max(0.0, timeout) * 1e3)]
        if self._bell in ready:
            # Emptied before the flag is cleared: the other way round, a ring between the two would be lost.
            os.eventfd_read(self._bell)
        self._rung = False
        return fd in ready

    def ring(self) -> None:
        if self._rung:
            return
        self._rung = True
        with self._closing:
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        with self._closing:
            if self._bell >= 0:
                os.close(self._bell)
                self._bell = -1

    def _watch(self, fd: int) -> None:
        if self._fd >= 0:
            self._poll.unregister(self._fd)
        self._poll.register(fd, select.POLLIN)
        self._fd = fd


class NativeSlot:
    """A thread, parked on a lock that it holds itself."""

    __slots__ = ("_parked",)

    def __init__(self, body: Callable[[SlotHandle], None]) -> None:
        self._parked = threading.Lock()
        self._parked.acquire()
        # Daemons: a task in a blocking call must not keep a process alive whose shutdown timeout is over.
        threading.Thread(target=body, args=(self,), name="greenworker-slot", daemon=True).start()

    def park(self) -> bool:
        """Wait for ``wake``, in the slot's own thread."""
        return self._parked.acquire()

    def wake(self) -> None:
        self._parked.release()

    def throw(self, exc: BaseException, still_wanted: Callable[[], bool]) -> None:
        raise NotImplementedError("nothing can be raised in a thread that is in a blocking call")

    def renew_context(self) -> bool:
        """A thread's context cannot be set from Python."""
        return False

    def clean(self) -> bool:
        """A thread's locals are the thread's: as in any pool of threads, they stay."""
        return True


class NativeRunner:
    """Slots as threads."""

    can_throw = False

    def spawn(self, body: Callable[[SlotHandle], None]) -> None:
        NativeSlot(body)


class NativeCaller:
    """There is no hub: whoever calls, calls."""

    def call(self, function: Callable[[], object]) -> None:
        function()

    def close(self) -> None:
        """Nothing is held."""


class NativeLibrary:
    """See green/base.Library."""

    name = "native"
    green = False

    def make_waiter(self) -> LoopWaiter:
        return NativeWaiter()

    def make_runner(self) -> SlotRunner:
        return NativeRunner()

    def make_caller(self) -> HubCaller:
        return NativeCaller()

    def original(self, module: str, name: str) -> Any:
        return getattr(importlib.import_module(module), name)

    def note_timeouts(self) -> None:
        """Threads have none."""

    def install_context_inheritance(self) -> None:
        """A thread begins with an empty context; tasks that start threads hand one on themselves."""


LIBRARY = NativeLibrary()
