"""Calls to the Redis that keeps results, over a bounded set of connections (broker/links.py)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from greenworker.broker.connection import ConnectionOptions, LoginRefusedError
from greenworker.broker.links import Links
from greenworker.broker.redis.link import LINK_ERRORS, Command, Link, meaning_of, open_link
from greenworker.errors import BrokerError, ResultsAwayError, ResultsError


class RedisLinks:
    """``count`` connections at most, opened when they are needed. Any greenlet or thread may call."""

    def __init__(self, url: str, options: ConnectionOptions, count: int) -> None:
        self._url = url
        self._options = options
        self._count = count
        self.reopen()

    def reopen(self) -> None:
        """Take calls, after a ``close``."""
        self._links: Links[Link] = Links(
            self._count, error=ResultsAwayError, refusal="results store", setting="[results] connections"
        )

    def close(self) -> None:
        """Take no more calls, and hang up."""
        self._links.close()

    def open(self) -> Link:
        """A connection beyond the set, for whoever keeps it. Raises BrokerError."""
        return open_link(self._url, self._options)

    def call(self, commands: Sequence[Command], timeout: float) -> list[Any]:
        """Send all in one write; returns a reply for each, errors among them (see Link.call).

        What is sent must do no harm when it is done twice: if a connection has died while it was idle, it is sent once
        more over another one. Raises ResultsAwayError when Redis cannot be reached, or does not answer in ``timeout``
        seconds, and ResultsError when it refuses our login.
        """
        link = self._links.take(time.monotonic() + timeout)
        if link is not None:
            try:
                return self._call(link, commands, timeout)
            except LINK_ERRORS:
                other = self._links.take(time.monotonic() + timeout)
                if other is not None:  # has been idle as long, or longer
                    other.drop()
        try:
            return self._call(self._open_in_place(), commands, timeout)
        except LINK_ERRORS as exc:
            raise ResultsAwayError(f"results store: Redis does not answer: {exc}") from exc

    def ask(self, command: Command, timeout: float) -> Any:
        """One command. Raises ResultsError for an error reply, too."""
        [reply] = self.call([command], timeout)
        if isinstance(reply, ResponseError):
            raise ResultsError(f"results store: Redis refuses: {meaning_of(reply)}")
        return reply

    def _open_in_place(self) -> Link:
        """A new connection in the place that was taken, which is given back if there is none to be had."""
        try:
            return self.open()
        except BrokerError as exc:
            self._links.give_back(None, usable=False)
            raise (ResultsError if isinstance(exc, LoginRefusedError) else ResultsAwayError)(str(exc)) from exc
        except BaseException:  # thrown into this greenlet
            self._links.give_back(None, usable=False)
            raise

    def _call(self, link: Link, commands: Sequence[Command], timeout: float) -> list[Any]:
        usable = False
        try:
            replies = link.call(commands, timeout)
            usable = True
            return replies
        finally:
            self._links.give_back(link, usable=usable)
