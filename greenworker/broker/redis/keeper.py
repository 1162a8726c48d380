"""The keeper: renews a session's lease from a native thread, where the loop's own thread may be a task's for long.

That is so on kombu's Hub alone: the solo pool runs its tasks in the loop's thread. Under green threads the loop renews
by itself, on purpose: a task that never yields blocks it, and others take over what a hanging process holds.
"""

from __future__ import annotations

import logging
import threading

from redis.exceptions import ResponseError

from greenworker.broker.connection import ConnectionOptions
from greenworker.broker.redis.link import LINK_ERRORS, SILENCE_LIMIT, Link, open_link
from greenworker.broker.redis.session import Session
from greenworker.errors import BrokerError

logger = logging.getLogger(__name__)

STOP_TIMEOUT = 1.0


class Keeper:
    """``start`` and ``stop`` are harmless twice."""

    def __init__(self, url: str, options: ConnectionOptions, session: Session) -> None:
        self._url = url
        self._options = options
        self._session = session
        self._timeout = options.heartbeat or SILENCE_LIMIT
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._keep, name="lease keeper", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            thread.join(STOP_TIMEOUT)

    def _keep(self) -> None:
        link: Link | None = None
        while not self._stopping.wait(self._session.touch_interval):
            try:
                link = link or open_link(self._url, self._options)
                self._renew(link)
            except (*LINK_ERRORS, BrokerError, ResponseError) as exc:
                logger.debug("The lease was not renewed, trying again: %s", exc)
                if link is not None:
                    link.drop()
                link = None
        if link is not None:
            link.drop()

    def _renew(self, link: Link) -> None:
        link.ask(self._session.renew(), self._timeout)
        held = link.ask(("ZCARD", self._session.held), self._timeout)
        link.call(self._session.touch(held), self._timeout)
