"""From which queue the next message is taken: by weight, so that queues of equal weight take turns.

By weight is smooth weighted round robin (as nginx shares out its upstreams): each pick, every queue gains its weight,
the richest is picked and pays the sum of all weights. Picks interleave, and the credit lives on from batch to batch, so
that shares hold over any stretch of deliveries however small the batches are.
"""

from __future__ import annotations

from collections.abc import Sequence

from greenworker.broker.delivery import QueueSpec


class QueueOrder:
    """The consumed queues and their credit. Used by one loop alone."""

    def __init__(self) -> None:
        self._weights: dict[str, int] = {}
        self._credit: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        """The consumed queues, as they were added."""
        return list(self._weights)

    def add(self, queue: QueueSpec) -> None:
        """Consume ``queue``."""
        self._weights[queue.name] = max(1, queue.weight)
        self._credit.setdefault(queue.name, 0)

    def remove(self, name: str) -> None:
        """Consume it no more."""
        self._weights.pop(name, None)
        self._credit.pop(name, None)

    def empty(self, name: str) -> None:
        """The queue had nothing: it starts anew, with neither credit nor debt."""
        if name in self._credit:
            self._credit[name] = 0

    def plan(self, count: int, queues: Sequence[str]) -> list[str]:
        """``count`` picks among ``queues``, in the order in which they should be delivered."""
        if not queues:
            return []
        total = sum(self._weights[name] for name in queues)
        picks: list[str] = []
        for _ in range(count):
            for name in queues:
                self._credit[name] += self._weights[name]
            pick = max(queues, key=self._credit.__getitem__)
            self._credit[pick] -= total
            picks.append(pick)
        return picks
