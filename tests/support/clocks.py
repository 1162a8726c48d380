"""A clock and a timer that tests move by hand."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class FakeClock:
    """Stands still until ``advance``."""

    def __init__(self) -> None:
        self.seconds = 1_000.0
        self.epoch = datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.seconds

    def utcnow(self) -> datetime:
        return self.epoch + timedelta(seconds=self.seconds - 1_000.0)

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


class FakeEntry:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class FakeTimer:
    """Calls what is due when ``run_due`` is called."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._count = itertools.count()
        self._heap: list[tuple[float, int, FakeEntry]] = []

    def call_at(self, deadline: float, call: Callable[[], None]) -> FakeEntry:
        entry = FakeEntry(call)
        heapq.heappush(self._heap, (deadline, next(self._count), entry))
        return entry

    def call_later(self, delay: float, call: Callable[[], None]) -> FakeEntry:
        return self.call_at(self._clock.monotonic() + delay, call)

    def run_due(self) -> None:
        while self._heap and self._heap[0][0] <= self._clock.monotonic():
            entry = heapq.heappop(self._heap)[2]
            if entry.call is not None:
                entry.call()

    @property
    def pending(self) -> int:
        return sum(entry.call is not None for _, _, entry in self._heap)
