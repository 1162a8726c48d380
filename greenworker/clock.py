"""The two clocks: monotonic seconds for deadlines, aware UTC for what is stored or sent.

Code takes a Clock as an argument, so that tests can hand in one that they move by hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps; compare only with itself."""

    def utcnow(self) -> datetime:
        """The wall-clock time as an aware UTC datetime."""


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def utcnow(self) -> datetime:
        return datetime.now(UTC)


class TimerEntry(Protocol):
    """One call that is due later."""

    def cancel(self) -> None:
        """Never call it. Harmless after the call, and twice."""


class Timer(Protocol):
    """Calls functions when they are due. Implemented by the worker's timer, handed to whoever needs it."""

    def call_at(self, deadline: float, call: Callable[[], None]) -> TimerEntry:
        """Call ``call`` once, at ``deadline`` on the monotonic clock, from the timer's greenlet; it must not block."""

    def call_later(self, delay: float, call: Callable[[], None]) -> TimerEntry:
        """The same, ``delay`` seconds from now."""
