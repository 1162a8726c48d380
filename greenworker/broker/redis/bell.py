"""The bell: Redis says that a consumed queue has changed, so that an idle consumer neither polls nor takes blindly.

A blocking pop would wait as well, but it takes the message before it stands in ``unacked``: a process that is killed in
between loses it. So the connection for commands asks for invalidation messages (CLIENT TRACKING in broadcast mode) of
all keys that begin as a queue does, and has them sent to this second connection, which the loop waits on. They come in
RESP2, as messages of a channel; nothing but the names of keys in them is of interest.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterable, Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from greenworker.broker.redis.keys import queue_keys
from greenworker.broker.redis.link import Command, Link, meaning_of

CHANNEL = "__redis__:invalidate"
PING = b"*1\r\n$4\r\nPING\r\n"
CHUNK_BYTES = 65_536

_NOTHING_TO_READ = (BlockingIOError, ssl.SSLWantReadError)


class BellRefusedError(Exception):
    """Redis, or its ACL, does not let us be told; ``args[0]`` says why."""


class Bell:
    """The connection that is told. Used by the loop alone."""

    def __init__(self, link: Link, timeout: float) -> None:
        """Make ``link`` a bell. Raises BellRefusedError, LINK_ERRORS."""
        self._link = link
        self._silence_limit = timeout
        try:
            self._client_id: int = link.ask(("CLIENT", "ID"), timeout)
            link.ask(("SUBSCRIBE", CHANNEL), timeout)
        except ResponseError as exc:
            raise BellRefusedError(meaning_of(exc)) from exc
        self._socket: Any = link.socket
        self._socket.settimeout(0.0)
        self._names = re.compile(b"(?!)")  # matches the names of consumed lists, as RESP has them
        self._longest = 0
        self._tail = b""
        self._pinged_at = time.monotonic()
        self._answered = True

    def watch(self, commands: Link, queues: Sequence[str], timeout: float) -> None:
        """Be told of changes of ``queues``, but for those that come over ``commands`` itself.

        Raises BellRefusedError, LINK_ERRORS.
        """
        names = [_as_resp(key) for queue in queues for key in queue_keys(queue)]
        self._names = re.compile(b"|".join(map(re.escape, names)) or b"(?!)")
        self._longest = max(map(len, names), default=0)
        prefixes = [argument for prefix in _prefixes(queues) for argument in ("PREFIX", prefix)]
        calls: list[Command] = [("CLIENT", "TRACKING", "OFF")]  # the same prefix twice would be an error
        if prefixes:
            calls.append(("CLIENT", "TRACKING", "ON", "REDIRECT", self._client_id, "BCAST", *prefixes, "NOLOOP"))
        replies = commands.call(calls, timeout)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise BellRefusedError(meaning_of(reply))

    def fileno(self) -> int:
        """What the loop waits on."""
        return int(self._socket.fileno())

    def rang(self) -> bool:
        """Read what there is, without waiting; True if a consumed queue has changed. Raises one of LINK_ERRORS."""
        rang = False
        while True:
            try:
                chunk = self._socket.recv(CHUNK_BYTES)
            except _NOTHING_TO_READ:
                return rang
            if not chunk:
                raise RedisConnectionError("Redis closed the connection that it tells of new messages on")
            self._answered = True
            text = self._tail + chunk
            rang = rang or self._names.search(text) is not None
            self._tail = (
                text[-(self._longest - 1) :] if self._longest > 1 else b""
            )  # a name cut in two, never a whole one

    def keep_alive(self) -> None:
        """Ping now and then, or firewalls forget a bell that has nothing to tell; call it after ``rang``.

        Raises ConnectionError of redis-py if a ping was not answered.
        """
        now = time.monotonic()
        if now - self._pinged_at < self._silence_limit:
            return
        if not self._answered:
            raise RedisConnectionError(
                f"no answer for {self._silence_limit:g} s on the connection that tells of new messages"
            )
        self._answered = False
        self._pinged_at = now
        self._socket.sendall(PING)

    def drop(self) -> None:
        """Hang up. Harmless twice."""
        self._link.drop()


def _as_resp(key: str) -> bytes:
    raw = key.encode()
    return b"$%d\r\n%b\r\n" % (len(raw), raw)


def _prefixes(queues: Iterable[str]) -> list[str]:
    """The fewest prefixes that cover the queues' keys: Redis refuses one that another one covers."""
    prefixes: list[str] = []
    for queue in sorted(queues):
        if not (prefixes and queue.startswith(prefixes[-1])):
            prefixes.append(queue)
    return prefixes
