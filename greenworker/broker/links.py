"""What publishers over a network share: a bounded set of connections, and the word on a broker that is full.

The rule the set keeps: a connection is used again only after everything on it went well. Whatever ends a call in the
middle, a thrown time limit included, may have left half a message on the wire. (The results store has such a set, too.)
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from greenworker.broker.publisher import Outgoing
from greenworker.errors import PublishError

logger = logging.getLogger(__name__)

IDLE_LIMIT = 60.0  # seconds: firewalls forget silent connections after minutes, and a first write would tell nobody
CLOSE_TIMEOUT = 1.0


class Droppable(Protocol):
    """One connection."""

    def drop(self) -> None:
        """Hang up, without waiting for anybody."""


Link = TypeVar("Link", bound=Droppable)


class Links(Generic[Link]):
    """The connections that are idle. Any greenlet or thread may take one, for itself until it gives it back."""

    def __init__(
        self,
        places: int,
        *,
        error: Callable[[str], Exception] = PublishError,
        refusal: str = "not published",
        setting: str = "[broker] publish_connections",
    ) -> None:
        """``error`` is raised for want of a connection, its text begins with ``refusal`` and names ``setting``."""
        self._places = places
        self._error, self._refusal, self._setting = error, refusal, setting
        # One entry a place: the connection and when it was used last (monotonic), None where none is open.
        self._idle: queue.LifoQueue[tuple[Link, float] | None] = queue.LifoQueue()
        self._closed = False
        for _ in range(places):
            self._idle.put(None)

    def take(self, deadline: float) -> Link | None:
        """A connection, or None: the caller may open one. Either way it must give it back.

        Raises ``error`` if none is free by the monotonic ``deadline``.
        """
        if self._closed:
            raise self._error(f"{self._refusal}: closed")
        try:
            entry = self._idle.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise self._error(f"{self._refusal}: all {self._places} connections are busy ({self._setting})") from None
        if entry is None:
            return None
        link, used_at = entry
        if time.monotonic() - used_at > IDLE_LIMIT:
            link.drop()
            return None
        return link

    def give_back(self, link: Link | None, *, usable: bool) -> None:
        """The caller is done with it; ``usable`` if everything on it went well."""
        if link is not None and usable and not self._closed:
            self._idle.put((link, time.monotonic()))
            return
        if link is not None:
            link.drop()
        self._idle.put(None)

    def close(self) -> None:
        """Hang up all that are idle; one that is in use is hung up when it is given back. Harmless twice."""
        if self._closed:
            return
        self._closed = True
        deadline = time.monotonic() + CLOSE_TIMEOUT
        for _ in range(self._places):
            try:
                entry = self._idle.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return
            if entry is not None:
                entry[0].drop()


class Blockade:
    """Whether the broker takes messages at the moment; the log has when that changes."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def begin(self, reason: str) -> None:
        """It takes none, for ``reason``."""
        if self.reason is None:
            logger.warning("The broker takes no messages for now (%s): publishing waits", reason)
        self.reason = reason

    def end(self) -> None:
        """It has taken some."""
        if self.reason is not None:
            logger.warning("The broker takes messages again")
        self.reason = None


def not_published(reason: str, messages: Sequence[Outgoing]) -> PublishError:
    """The error for ``messages``, which are not on their queues, or not certainly."""
    error = PublishError(f"not published: {reason}")
    error.unpublished = messages
    return error
