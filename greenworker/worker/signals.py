"""Signals: a handler that only queues, a guardian that hears them, and a thread that acts on them.

Python's own wake-up descriptor carries the signal's number out of the handler, so nothing runs in signal context. The
guardian's native thread reads it, for its own purpose, and passes the number on to a thread (green where threads are)
that acts; so the same code serves patched and plain processes.
"""

from __future__ import annotations

import enum
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from greenworker.worker.guardian import Guardian

logger = logging.getLogger(__name__)

LISTEN_TIMEOUT = 1.0  # how often the thread looks whether it is still wanted


class End(enum.Enum):
    """How a worker is asked to end."""

    WARM = "warm"
    COLD = "cold"


END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class EndSignals:
    """What each signal asks for: TERM and the first INT a warm end, QUIT and every later INT a cold one.

    It counts, so whoever listens has one of his own.
    """

    def __init__(self) -> None:
        self._interrupted = False

    def wish(self, signum: signal.Signals) -> End | None:
        """None: that signal does not ask for an end."""
        if signum not in END_SIGNALS:
            return None
        if signum is signal.SIGQUIT or (signum is signal.SIGINT and self._interrupted):
            return End.COLD
        self._interrupted = self._interrupted or signum is signal.SIGINT
        return End.WARM


class SignalListener:
    """Calls ``action(signum)`` from its own thread for each of ``signals`` that comes.

    A context manager, entered in the main thread. On exit the old handlers are back; in a process that was told to end
    ours stay, so that one more TERM in its last moments does not turn its exit code into a death by signal.
    """

    def __init__(
        self, signals: Iterable[signal.Signals], action: Callable[[signal.Signals], None], guardian: Guardian
    ) -> None:
        self._signals = tuple(signals)
        self._action = action
        self._guardian = guardian
        self._old_handlers: dict[signal.Signals, Any] = {}
        self._old_wakeup_fd = -1

    def __enter__(self) -> SignalListener:
        reader, writer = socket.socketpair()
        reader.settimeout(LISTEN_TIMEOUT)
        wakeup_fd = self._guardian.start(writer.detach())
        self._old_wakeup_fd = signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
        for signum in self._signals:
            self._old_handlers[signum] = signal.signal(signum, _queued)
        threading.Thread(target=self._listen, args=(reader,), name="signals", daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._guardian.counting:
            return
        for signum, handler in self._old_handlers.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._old_wakeup_fd)
        self._guardian.stop()  # it closes what the listener reads from

    def _listen(self, reader: socket.socket) -> None:
        with reader:
            while True:
                try:
                    numbers = reader.recv(64)
                except TimeoutError:
                    continue
                except OSError:
                    return
                if not numbers:
                    return
                for number in numbers:
                    if number in self._signals:  # the wake-up descriptor tells of other parts' too, real-time ones
                        self._act(signal.Signals(number))

    def _act(self, signum: signal.Signals) -> None:
        logger.info("Received %s", signum.name)
        try:
            self._action(signum)
        except Exception:  # the thread must live on: the next signal may be the one that ends the process
            logger.exception("Acting on %s failed", signum.name)


def _queued(signum: int, frame: FrameType | None) -> None:
    """The interpreter has written the number to the wake-up descriptor already: there is nothing left to do."""
