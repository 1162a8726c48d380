"""Whether a request may run now, has to wait, or is not wanted any more."""

from __future__ import annotations

from dataclasses import dataclass

from greenworker.clock import Clock
from greenworker.execution.outcome import Outcome, Revoked
from greenworker.execution.rate_limits import TokenBucket, parse_rate
from greenworker.execution.request import Request


@dataclass(frozen=True, slots=True)
class Start:
    """Run it now."""


@dataclass(frozen=True, slots=True)
class Defer:
    """Not before ``delay`` seconds from now; ``bucket`` if its rate limit says so, with a start reserved in it."""

    delay: float
    bucket: TokenBucket | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """Do not run it; settle it with ``outcome``."""

    outcome: Outcome


START = Start()
Decision = Start | Defer | Drop


class Admission:
    """The rules that a request meets before it gets a slot: expired, ETA, rate limit. Used by the loop alone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    def limit(self, task_name: str, rate: str | float | None) -> None:
        """Set the rate limit of a task; None lifts it. Raises ValueError for a rate in no known notation."""
        starts = parse_rate(rate)
        if starts is None:
            self._buckets.pop(task_name, None)
            return
        bucket = self._buckets.get(task_name)
        if bucket is None or bucket.rate != starts:  # a reconnect must not give a free start
            self._buckets[task_name] = TokenBucket(starts, self._clock)

    def decide(self, request: Request) -> Decision:
        """What to do with ``request`` at this moment."""
        message = request.message
        if message.expires is not None or message.eta is not None:
            now = self._clock.utcnow()
            if message.expires is not None and message.expires <= now:
                return Drop(Revoked("expired"))
            if message.eta is not None and message.eta > now:
                return Defer((message.eta - now).total_seconds())
        bucket = self._buckets.get(message.task)
        if bucket is not None:
            delay = bucket.reserve()
            if delay > 0:
                return Defer(delay, bucket)
        return START
