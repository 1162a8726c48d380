"""Prefetch: how many deliveries may be unsettled here at once, as slots and deferred tasks come and go.

Slots times a multiplier, and room for the deferred ones on top, or ETA tasks would keep others from being delivered.
The room changes in few, large steps: on quorum queues every change is a new consumer.
"""

from __future__ import annotations

import math

from greenworker.broker.source import Source
from greenworker.execution.pool import Pool

SMALLEST_ROOM = 16
ROOM_FACTOR = 4


class Prefetch:
    """Follows the pool's size and the number of deferred requests. Used by the loop alone."""

    def __init__(self, pool: Pool, multiplier: float, deferred_limit: int) -> None:
        self._pool = pool
        self._multiplier = multiplier
        self._deferred_limit = deferred_limit
        self._room = 0
        self._applied: int | None = None

    def target(self) -> int:
        """The limit as things are, at least 1."""
        return max(1, math.ceil(self._pool.size * self._multiplier)) + self._room

    def begin(self) -> int:
        """The limit for a new connection, on which nothing is deferred yet."""
        self._room = 0
        self._applied = self.target()
        return self._applied

    def apply(self, source: Source, deferred: int) -> None:
        """Tell ``source`` if the limit has changed."""
        self._room = room_for(deferred, self._room, self._deferred_limit)
        target = self.target()
        if target != self._applied:
            self._applied = target
            source.set_prefetch(target)


def room_for(deferred: int, room: int, limit: int) -> int:
    """The room for ``deferred`` requests, given the room there is: up as soon as it is full, down when mostly empty.

    It ends one step above ``limit``, so that deliveries beyond it still come in, and are parked.
    """
    if deferred >= room:
        while room <= deferred and room < limit + SMALLEST_ROOM:
            room = min(max(SMALLEST_ROOM, room * ROOM_FACTOR), limit + SMALLEST_ROOM)
        return room if deferred else 0
    if deferred * ROOM_FACTOR * 2 < room:
        return 0 if deferred == 0 else max(SMALLEST_ROOM, room // ROOM_FACTOR)
    return room
