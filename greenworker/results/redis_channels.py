"""Channels: one connection to Redis on which all waits for results of a process listen, however many there are.

A service thread reads it. Whoever waits subscribes and looks, in this order, or a result that comes in between would be
missed: so a listener is told to look whenever its channel was subscribed to, the first time and after every reconnect.

The thread ends when nobody has listened for a while, and hangs up.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from greenworker.broker.redis.link import LINK_ERRORS, Link
from greenworker.errors import BrokerError

logger = logging.getLogger(__name__)

TURN = 0.5  # seconds of one wait for messages
JOIN_TIMEOUT = 3.0
PING_INTERVAL = 10.0  # of silence; as much again, and the connection counts as dead
IDLE_LIMIT = 60.0
RECONNECT_DELAY, RECONNECT_DELAY_MAX = 0.1, 5.0


class Listener:
    """One wait. Written to by the thread, read by whoever waits."""

    def __init__(self) -> None:
        self._heard: deque[bytes | None] = deque()
        self._rang = threading.Event()

    def next(self, timeout: float) -> bytes | None:
        """The next document on the channel.

        None: look for yourself, for you have just been subscribed, or ``timeout`` seconds are over.
        """
        if not self._heard and not self._rang.wait(timeout):
            return None
        self._rang.clear()
        return self._heard.popleft() if self._heard else None

    def tell(self, document: bytes | None) -> None:
        """Pass on what came."""
        self._heard.append(document)
        self._rang.set()


class RedisChannels:
    """Any greenlet or thread may listen. ``_lock`` guards the fields below it, and writing to the connection."""

    def __init__(self, opener: Callable[[], Link]) -> None:
        """``opener`` connects; raises BrokerError."""
        self._open = opener
        self._lock = threading.Lock()
        self._listeners: dict[str, list[Listener]] = {}
        self._link: Link | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._heard_at = 0.0  # this and the next are the thread's own
        self._pinged = False

    @contextmanager
    def listening(self, channel: str) -> Iterator[Listener]:
        """Listen for the length of the block."""
        listener = Listener()
        self._add(channel, listener)
        try:
            yield listener
        finally:
            self._remove(channel, listener)

    def close(self) -> None:
        """End the thread. Can be used again."""
        self._stopping.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(JOIN_TIMEOUT)

    def _add(self, channel: str, listener: Listener) -> None:
        with self._lock:
            listeners = self._listeners.setdefault(channel, [])
            listeners.append(listener)
            if self._thread is None:
                self._stopping.clear()
                self._thread = threading.Thread(target=self._serve, name="results-listener", daemon=True)
                contextvars.Context().run(self._thread.start)  # it belongs to no task
            elif len(listeners) == 1:
                self._send("SUBSCRIBE", channel)
            else:
                listener.tell(None)  # subscribed, or about to be: then it is told again

    def _remove(self, channel: str, listener: Listener) -> None:
        with self._lock:
            listeners = self._listeners[channel]
            listeners.remove(listener)
            if not listeners:
                del self._listeners[channel]
                self._send("UNSUBSCRIBE", channel)

    def _send(self, *command: str) -> None:
        """Under the lock. A connection that is dead is noticed by the thread, which then subscribes to all again."""
        if self._link is None:
            return
        try:
            self._link.send(command)
        except LINK_ERRORS as exc:
            logger.debug("Cannot tell Redis to %s: %s", command[0], exc)

    # --- the thread ---------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        delay = RECONNECT_DELAY
        while not self._ended():
            try:
                self._connect()
                delay = RECONNECT_DELAY
                self._listen()
            except Exception as exc:  # whatever a driver raises: all waits of the process hang on this thread
                logger.log(
                    logging.DEBUG if self._stopping.is_set() else logging.WARNING,
                    "The connection on which results are waited for is gone, next try in %.1f s: %s",
                    *(delay, exc),
                )
                self._hang_up()
                self._stopping.wait(delay)
                delay = min(delay * 2, RECONNECT_DELAY_MAX)

    def _ended(self) -> bool:
        """Whether the thread has to end; then it is gone for ``_add``, which starts another one."""
        with self._lock:
            if self._listeners and not self._stopping.is_set():
                return False
            self._thread = None
        self._hang_up()
        return True

    def _hang_up(self) -> None:
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.drop()

    def _connect(self) -> None:
        if self._link is not None:
            return
        link = self._open()
        with self._lock:
            self._link = link
            if self._listeners:
                link.send(("SUBSCRIBE", *self._listeners))
        self._heard_at, self._pinged = time.monotonic(), False

    def _listen(self) -> None:
        """Pass on what comes, until nobody has listened for IDLE_LIMIT seconds. Raises one of LINK_ERRORS."""
        link = self._link
        assert link is not None
        used_at = time.monotonic()
        while not self._stopping.is_set() and time.monotonic() - used_at < IDLE_LIMIT:
            reply = link.receive(TURN)
            if self._listeners:
                used_at = time.monotonic()
            if reply is None:
                self._keep_alive()
                continue
            self._heard_at, self._pinged = time.monotonic(), False
            if isinstance(reply, list):
                self._on_reply(*reply)
            elif isinstance(reply, Exception):
                raise BrokerError(f"Redis refuses to tell of results: {reply}")

    def _on_reply(self, kind: bytes, channel: bytes, payload: bytes | int | None = None) -> None:
        if kind in {b"message", b"subscribe"}:
            with self._lock:
                listeners = list(self._listeners.get(channel.decode(), ()))
            for listener in listeners:
                listener.tell(payload if isinstance(payload, bytes) else None)

    def _keep_alive(self) -> None:
        silence = time.monotonic() - self._heard_at
        if silence > 2 * PING_INTERVAL:
            raise BrokerError(f"no answer for {silence:.0f} s")
        if silence > PING_INTERVAL and not self._pinged:
            self._pinged = True
            with self._lock:
                self._send("PING")
