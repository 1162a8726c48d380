"""What Redis refuses (its memory is full, a right is missing, a key is of another kind): waited out, and told once."""

from __future__ import annotations

import logging
import time

from redis.exceptions import ResponseError

from greenworker.broker.redis.link import meaning_of

logger = logging.getLogger(__name__)

REFUSED_DELAY = 1.0  # seconds between two tries


class Refusal:
    """Whether Redis does as it is told. Used by the loop alone."""

    def __init__(self) -> None:
        self._reason: str | None = None
        self._over_at = 0.0  # monotonic

    @property
    def retry_in(self) -> float:
        """Seconds until it is time to ask again."""
        return max(0.0, self._over_at - time.monotonic())

    def begin(self, error: ResponseError) -> None:
        """Redis has refused something."""
        reason = meaning_of(error)
        if reason != self._reason:
            logger.error("Redis refuses what a consumer needs, trying again every %g s: %s", REFUSED_DELAY, reason)
        self._reason = reason
        self._over_at = time.monotonic() + REFUSED_DELAY

    def end(self) -> None:
        """Redis has refused nothing."""
        if self._reason is not None:
            logger.warning("Redis does as it is told again")
            self._reason = None


class Problem:
    """What is wrong with a queue's key, as a script has found it: the log has it when it is another one than before."""

    def __init__(self, text: str) -> None:
        """``text`` has a place for the problem."""
        self._text = text
        self._last = b""

    def now(self, problem: bytes) -> None:
        """Empty: nothing is wrong."""
        if problem != self._last and problem:
            logger.error(self._text, problem.decode(errors="replace"))
        self._last = problem
