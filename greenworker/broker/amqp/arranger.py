"""Deliveries that wait in the process for their queue's turn: by weight, or in strict order.

RabbitMQ counts a window for each consumer and knows of no order between queues. So each queue may be fetched from up to
a whole prefetch, and what is handed out, of all queues together, is limited here: idle queues waste nothing, shares
hold, and while a consumer with a new window takes over from an old one nobody gets more than the prefetch.

By weight: at each turn every queue gains its weight, and the richest of those that have something pays all weights. A
queue that has nothing keeps its claim, up to one prefetch: a moment without messages does not cost it its share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from greenworker.broker.delivery import Delivery


class Arranger:
    """Used by the loop alone."""

    def __init__(self, hand_out: Callable[[Delivery], None], *, strict: bool) -> None:
        self._hand_out = hand_out
        self._strict = strict
        self._weights: dict[str, int] = {}
        self._claims: dict[str, int] = {}
        self._buffers: dict[str, deque[Delivery]] = {}
        self.waiting = 0

    def set_queues(self, weights: Mapping[str, int]) -> None:
        """The consumed queues, the first first in strict order. What waits of others stays, and comes last."""
        self._weights = dict(weights)
        for name in weights:
            self._claims.setdefault(name, 0)
        waiting = {name: buffer for name, buffer in self._buffers.items() if buffer and name not in weights}
        self._buffers = {**{name: self._buffers.get(name, deque()) for name in weights}, **waiting}

    def add(self, delivery: Delivery) -> None:
        """A delivery came; it is handed out at its turn."""
        self._buffers.setdefault(delivery.queue, deque()).append(delivery)
        self.waiting += 1

    def release(self, room: int, prefetch: int) -> None:
        """Hand out up to ``room`` deliveries, in order; ``prefetch`` bounds the claims."""
        while room > 0 and self.waiting:
            ready = [name for name, buffer in self._buffers.items() if buffer]
            buffer = self._buffers[ready[0] if self._strict else self._richest(ready, prefetch)]
            self.waiting -= 1
            room -= 1
            self._hand_out(buffer.popleft())

    def take_all(self, queue: str | None = None) -> list[Delivery]:
        """What waits, of ``queue`` or of all: it waits no longer, and goes back to the broker."""
        names = list(self._buffers) if queue is None else [queue]
        taken = [delivery for name in names for delivery in self._buffers.pop(name, ())]
        self.waiting -= len(taken)
        return taken

    def _richest(self, ready: Sequence[str], bound: int) -> str:
        claims, total = self._claims, sum(self._weights.values())
        bound = max(bound, total)  # less than one round would cut the shares themselves
        for name, weight in self._weights.items():
            claims[name] = min(bound, claims[name] + weight)
        pick = max(ready, key=lambda name: claims.get(name, -bound))
        claims[pick] = max(-bound, claims.get(pick, 0) - total)
        return pick
