"""Evloop: the loop that waits on the connection, in its two forms.

``synloop`` pumps the source in one greenlet (or thread). ``asynloop`` runs kombu's Hub, where there is one: the pool is
not green and the broker's transport is asynchronous. A hub or none: nothing else decides.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import TYPE_CHECKING, Any, ClassVar

from greenworker.bootsteps import ConsumerStep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greenworker.consumer.consumer import Consumer

LONGEST_WAIT = 1.0  # seconds in one wait: a ring or the socket ends it sooner, this bounds what a lost ring could cost


class Evloop(ConsumerStep["Consumer"]):
    """Chooses ``consumer.loop``; the consumer runs it when all steps are started."""

    name: ClassVar[str] = "evloop"
    requires: ClassVar[tuple[str, ...]] = ("tasks",)

    def start(self, consumer: Consumer) -> None:
        hub = consumer.parts.hub
        consumer.loop = (
            functools.partial(synloop, consumer) if hub is None else functools.partial(asynloop, consumer, hub)
        )

    def stop(self, consumer: Consumer) -> None:
        consumer.loop = None

    def info(self, consumer: Consumer) -> Mapping[str, Any]:
        return {"loop": "synloop" if consumer.parts.hub is None else "asynloop"}


def synloop(consumer: Consumer) -> None:
    """Pump the source until the consumer is stopped. Raises ConnectionLostError."""
    source, pool = consumer.source, consumer.parts.pool
    assert source is not None
    while not consumer.stopping.is_set():
        consumer.run_calls()
        busy = pool.run_waiting()
        source.pump(0.0 if busy else LONGEST_WAIT)
    source.flush()


def asynloop(consumer: Consumer, hub: Any) -> None:
    """Run kombu's Hub until the consumer is stopped. Raises ConnectionLostError."""
    source, pool = consumer.source, consumer.parts.pool
    assert source is not None
    bell = HubBell(hub)
    try:
        source.register(hub, bell.ring)
        turns = hub.create_loop()
        while not consumer.stopping.is_set():
            consumer.run_calls()
            if pool.run_waiting():
                bell.ring()
            source.turn()
            next(turns)
        source.flush()
    finally:
        source.unregister(hub)
        bell.close()


class HubBell:
    """Ends the hub's wait from any thread: an eventfd among its readers."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._lock = threading.Lock()  # a slot's thread must not ring a number that belongs to another file by now
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        hub.add_reader(self._fd, self._drain)

    def ring(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        """Leave the hub. Rings after this do nothing."""
        with self._lock:
            fd, self._fd = self._fd, -1
            self._hub.remove(fd)
            os.close(fd)

    def _drain(self) -> None:
        os.eventfd_read(self._fd)
