"""Upkeep: a source renews its lease, and does for all who consume what has to be done by somebody.

Whoever renews is told whether dead consumers have left messages, and when the next parked message is due; and looks
after both. How often depends on the line (which polls more often without a bell) and on what is parked, the lease
allowing.
"""

from __future__ import annotations

import time

from greenworker.broker.redis.line import Line
from greenworker.broker.redis.refusal import Problem
from greenworker.broker.redis.restore import Restorer
from greenworker.broker.redis.session import News, Session, promote

PARKED_INTERVAL = 1.0  # seconds between looks at parked messages, while there are any


class Upkeep:
    """Used by the loop alone; what asks Redis raises LINK_ERRORS and ResponseError."""

    def __init__(self, line: Line, session: Session, restorer: Restorer) -> None:
        self._line = line
        self._session = session
        self._restorer = restorer
        self._due_at = 0.0  # monotonic
        self._problem = Problem("A message is due, and stays parked for its queue's key in Redis takes none: %s")

    @property
    def due_in(self) -> float:
        """Seconds until it is time to renew."""
        return max(0.0, self._due_at - time.monotonic())

    def follow(self, news: News) -> bool:
        """Do what the renewal has told to be due; returns whether there may be new messages on the queues."""
        interval = min(self._line.poll_interval, self._session.lease_timeout / 4)
        moved = False
        if news.parked_due is not None:
            interval = min(interval, news.parked_due, PARKED_INTERVAL)
            moved = news.parked_due <= 0 and self._promote()
        if (news.dead_sessions or news.stale_messages) and self._restorer.sweep():
            moved = True
            interval = 0.0  # there may be more
        self._due_at = time.monotonic() + interval
        return moved

    def _promote(self) -> bool:
        moved, problem = self._line.ask(promote())
        self._problem.now(problem)
        return bool(moved)
