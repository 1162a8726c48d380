"""A consumer's line to Redis: one connection for commands and one for the bell, replaced when either breaks.

A broken socket is no lost connection here. What was taken is leased to the session, not to the socket, so that the line
comes back to the same messages; the source gives up only when the lease cannot be kept. Until then a broken line makes
``call`` raise one of LINK_ERRORS, and ``up`` False until ``come_back`` works.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from greenworker.broker.connection import ConnectionOptions
from greenworker.broker.redis.bell import Bell, BellRefusedError
from greenworker.broker.redis.link import LINK_ERRORS, Command, Link, checked, open_link
from greenworker.errors import BrokerError
from greenworker.green.base import LoopWaiter
from greenworker.settings.secrets import mask_url

logger = logging.getLogger(__name__)

RETRY_DELAY, RETRY_DELAY_MAX = 0.1, 2.0
# How often to look for messages. With a bell it is only a net below it: it finds what a lost ring would cost, and goes
# from the first interval to the longest while it finds nothing. Without one it is how messages are found at all.
POLL_INTERVAL, POLL_INTERVAL_MAX = 1.0, 5.0
POLL_INTERVAL_WITHOUT_BELL = 0.2


class Line:
    """Used by the loop alone."""

    def __init__(self, url: str, options: ConnectionOptions, reply_timeout: float) -> None:
        """Connect. Raises BrokerError, LoginRefusedError."""
        self._url = url
        self._options = options
        self.reply_timeout = reply_timeout
        self._queues: Sequence[str] = ()
        self._commands: Link | None = None
        self._bell: Bell | None = None
        self._without_bell = False  # Redis has refused it, and the log says so
        self._retry_at, self._retry_delay = 0.0, RETRY_DELAY
        self._down_since: float | None = None  # monotonic; None: it is up
        self.poll_interval = POLL_INTERVAL
        self.generation = 0  # counts connections
        self._connect()
        self._silent_fd = os.eventfd(0, os.EFD_CLOEXEC)  # waited on where Redis has nothing to tell

    @property
    def up(self) -> bool:
        return self._down_since is None

    @property
    def down_for(self) -> float:
        """Seconds since it broke."""
        return 0.0 if self._down_since is None else time.monotonic() - self._down_since

    @property
    def retry_in(self) -> float:
        """Seconds until ``come_back`` tries."""
        return max(0.0, self._retry_at - time.monotonic())

    def call(self, *commands: Command) -> list[Any]:
        """As Link.call. Raises LINK_ERRORS, and then the line is down."""
        if self._commands is None:
            raise ConnectionError("the line to Redis is down")
        try:
            return self._commands.call(commands, self.reply_timeout)
        except LINK_ERRORS as exc:
            self.broke(exc)
            raise

    def ask(self, command: Command) -> Any:
        """One command. Raises ResponseError, too."""
        return checked(self.call(command))[0]

    def watch(self, queues: Sequence[str]) -> None:
        """Let the bell ring for these queues. Raises LINK_ERRORS, and then the line is down."""
        self._queues = tuple(queues)
        try:
            self._watch()
        except LINK_ERRORS as exc:
            self.broke(exc)
            raise

    # --- breaking, and coming back

    def broke(self, reason: object) -> None:
        """One of the connections is gone, or of no use any more."""
        self._drop()
        if self._down_since is None:
            self._down_since = time.monotonic()
            logger.warning("The connection to %s broke, connecting again: %s", mask_url(self._url), reason)

    def come_back(self, check: Callable[[], None]) -> bool:
        """Connect again, if it is time to try; True if that worked. The bell is set up as before.

        ``check`` looks whether all is well on the new connection. If it raises one of LINK_ERRORS or a ResponseError,
        this try has failed; anything else comes through.
        """
        if self.retry_in:
            return False
        try:
            self._connect()
            self._watch()
            check()
        except (*LINK_ERRORS, BrokerError, ResponseError) as exc:
            self._drop()
            logger.debug("Connecting again failed: %s", exc)
            self._retry_at = time.monotonic() + self._retry_delay * random.uniform(0.5, 1.0)
            self._retry_delay = min(self._retry_delay * 2, RETRY_DELAY_MAX)
            return False
        logger.warning("Connected to %s again, after %.1f s", mask_url(self._url), self.down_for)
        self._down_since = None
        self._retry_delay = RETRY_DELAY
        return True

    def close(self) -> None:
        """Hang up. Harmless twice."""
        self._drop()
        if self._silent_fd >= 0:
            os.close(self._silent_fd)
            self._silent_fd = -1

    def _connect(self) -> None:
        self.generation += 1
        self._commands = open_link(self._url, self._options)
        if self._without_bell:
            return
        link = open_link(self._url, self._options)
        try:
            self._bell = Bell(link, self.reply_timeout)
        except BellRefusedError as exc:
            link.drop()
            self._do_without_bell(exc)
        except BaseException:
            link.drop()
            raise

    def _watch(self) -> None:
        if self._bell is None:
            return
        assert self._commands is not None
        try:
            self._bell.watch(self._commands, self._queues, self.reply_timeout)
        except BellRefusedError as exc:
            self._bell.drop()
            self._bell = None
            self._do_without_bell(exc)

    def _do_without_bell(self, exc: BellRefusedError) -> None:
        self._without_bell = True
        self.poll_interval = POLL_INTERVAL_WITHOUT_BELL
        logger.warning(
            "Redis does not tell when messages come (CLIENT TRACKING, SUBSCRIBE %s): looking for them every %g s. %s",
            "__redis__:invalidate",
            POLL_INTERVAL_WITHOUT_BELL,
            exc,
        )

    def _drop(self) -> None:
        commands, self._commands = self._commands, None
        bell, self._bell = self._bell, None
        if commands is not None:
            commands.drop()
        if bell is not None:
            bell.drop()

    # --- waiting

    def fileno(self, hear: bool = True) -> int:
        """What to wait on. ``hear`` False: new messages are of no interest now."""
        return self._bell.fileno() if hear and self._bell is not None else self._silent_fd

    def wait(self, waiter: LoopWaiter, timeout: float, hear: bool) -> bool:
        """Wait for the bell (where ``hear``), a ring of ``waiter``, or ``timeout`` seconds; True if the bell rang.

        Raises LINK_ERRORS, and then the line is down.
        """
        return waiter.wait(self.fileno(hear), timeout) and self.rang()

    def rang(self) -> bool:
        """Whether queues have changed since the last time. Raises LINK_ERRORS, and then the line is down."""
        if self._bell is None:
            return False
        try:
            rang = self._bell.rang()
            self._bell.keep_alive()
        except LINK_ERRORS as exc:
            self.broke(exc)
            raise
        return rang

    def polled(self, found: bool) -> None:
        """A look that no bell asked for has found messages, or none."""
        if not self._without_bell:
            self.poll_interval = POLL_INTERVAL if found else min(self.poll_interval * 1.5, POLL_INTERVAL_MAX)
