"""Rate limits of tasks: Celery's notation, and a token bucket that tells how long the next start has to wait."""

from __future__ import annotations

from greenworker.clock import Clock

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_rate(rate: str | float | None) -> float | None:
    """Starts a second of ``"100/s"``, ``"10/m"``, ``"1/h"`` or a number; None and 0 are no limit.

    Celery's notation (its documentation of ``Task.rate_limit``). Raises ValueError for anything else.
    """
    if rate is None:
        return None
    count, _, per = str(rate).strip().partition("/")
    try:
        starts = float(count) / _SECONDS[per.strip().lower() or "s"]
    except (ValueError, KeyError):
        raise ValueError(f'expected a rate such as "100/s", "10/m" or "1/h", got {rate!r}') from None
    if starts < 0:
        raise ValueError(f"expected a rate that is not negative, got {rate!r}")
    return starts or None


class TokenBucket:
    """Lets ``rate`` starts a second through, evenly; a start may be reserved ahead, in order of asking.

    Used by the loop alone.
    """

    def __init__(self, rate: float, clock: Clock) -> None:
        self.rate = rate
        self.interval = 1.0 / rate
        self._clock = clock
        self._next = clock.monotonic()
        self._next_parked = self._next

    def reserve(self) -> float:
        """Take the next start; returns the seconds until it is due, 0 if that is now."""
        now = self._clock.monotonic()
        due = max(self._next, now)
        self._next = due + self.interval
        return due - now

    def park(self) -> float:
        """Give the last reserved start back, for one behind all parked before; returns the seconds until that.

        Were they all parked for the time that the first has to wait, they would come back together and be parked again.
        """
        self._next -= self.interval
        now = self._clock.monotonic()
        due = max(self._next, self._next_parked, now)
        self._next_parked = due + self.interval
        return due - now
