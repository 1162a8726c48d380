"""Deliveries that wait in the process for their queue's turn: by weight, or in strict order.

RabbitMQ counts a window for each consumer and knows of no order between queues. So each queue may be fetched from up to
a whole prefetch, and what is handed out, of all queues together, is limited here: idle queues waste nothing, shares
hold, and while a consumer with a new window takes over from an old one nobody gets more than the prefetch.

By weight: at each turn every queue gains its weight, and the richest of those that have something pays all weights. A
queue that has nothing keeps its claim, up to one prefetch: a moment without messages does not cost it its share.

Tasks may be faster than the broker: then a queue has nothing here although it has a backlog there, and the others would
take its turns. A window that was full is the sign of a backlog, and so is a consumer that has just begun. Such a queue
is waited for until its window is full again; where that takes longer than PATIENCE, the broker is asked whether the
backlog is over, for it may as well be slow.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence

from greenworker.broker.delivery import Delivery

PATIENCE = 0.1  # seconds: many round trips to a broker that is not busy elsewhere


class _Flow:
    """One queue's window at the broker, and how much of it is used: delivered to us, and not settled."""

    __slots__ = ("awaited_since", "backlog", "used", "window")

    def __init__(self) -> None:
        self.window = 0  # 0: not known
        self.used = 0
        self.backlog = False
        self.awaited_since: float | None = None

    def open(self, window: int) -> None:
        """A new consumer begins, with a window of its own. What the one before it had counts no more."""
        if window != self.window:
            is_first = self.window == 0
            self.window, self.used, self.backlog, self.awaited_since = window, 0, is_first and window > 0, None

    def delivered(self) -> None:
        self.used += 1
        if 0 < self.window <= self.used:
            self.backlog, self.awaited_since = True, None

    def awaited(self, empty: bool, looked_at: float, has_backlog: Callable[[], bool]) -> bool:
        """Whether its turn has to wait for its messages, of which there are none here (``empty``) or too few yet."""
        if not self.backlog or (self.awaited_since is None and not empty):
            return False
        if self.awaited_since is None:
            self.awaited_since = time.monotonic()
        if looked_at - self.awaited_since < PATIENCE:
            return True
        self.backlog = has_backlog()
        self.awaited_since = time.monotonic() if self.backlog else None
        return self.backlog


class Arranger:
    """Used by the loop alone, but for ``settled``."""

    def __init__(
        self, hand_out: Callable[[Delivery], None], has_backlog: Callable[[str], bool], *, strict: bool
    ) -> None:
        """``has_backlog`` asks the broker whether messages of a queue wait there, and waits for its reply."""
        self._hand_out = hand_out
        self._has_backlog = has_backlog
        self._strict = strict
        self._weights: dict[str, int] = {}
        self._claims: dict[str, int] = {}
        self._buffers: dict[str, deque[Delivery]] = {}
        self._flows: defaultdict[str, _Flow] = defaultdict(_Flow)
        self._settled: deque[str] = deque()  # the queues of settled deliveries, until the next release
        self.waiting = 0
        self.awaiting = False  # the last release has left room, for a queue's messages that are on their way

    def set_queues(self, weights: Mapping[str, int], windows: Mapping[str, int] | None = None) -> None:
        """The consumed queues, the first first in strict order. What waits of others stays, and comes last.

        ``windows``: how many deliveries of each queue the broker lets be unsettled. One that is not told is never
        waited for.
        """
        self._weights = dict(weights)
        for name in {*weights, *self._flows}:
            self._flows[name].open((windows or {}).get(name, 0))
        for name in weights:
            self._claims.setdefault(name, 0)
        waiting = {name: buffer for name, buffer in self._buffers.items() if buffer and name not in weights}
        self._buffers = {**{name: self._buffers.get(name, deque()) for name in weights}, **waiting}

    def add(self, delivery: Delivery) -> None:
        """A delivery came; it is handed out at its turn."""
        self._buffers.setdefault(delivery.queue, deque()).append(delivery)
        self._count_settled()
        self._flows[delivery.queue].delivered()
        self.waiting += 1

    def settled(self, queue: str) -> None:
        """A delivery of ``queue`` was settled. From any greenlet or thread."""
        self._settled.append(queue)

    def release(self, room: int, prefetch: int, looked_at: float) -> None:
        """Hand out up to ``room`` deliveries, in order; ``prefetch`` bounds the claims.

        ``looked_at``: what the broker had sent by then (monotonic time) has been added. A process that stood still must
        not take messages that lie on its socket for missing. If ``awaiting`` is True then, call it again after
        PATIENCE.
        """
        self._count_settled()
        self.awaiting = False
        while room > 0 and self.waiting:
            name = self._next(prefetch, looked_at)
            if name is None:
                self.awaiting = True
                return
            self.waiting -= 1
            room -= 1
            self._hand_out(self._buffers[name].popleft())

    def take_all(self, queue: str | None = None) -> list[Delivery]:
        """What waits, of ``queue`` or of all: it waits no longer, and goes back to the broker."""
        names = list(self._buffers) if queue is None else [queue]
        taken = [delivery for name in names for delivery in self._buffers.pop(name, ())]
        self.waiting -= len(taken)
        return taken

    def _count_settled(self) -> None:
        for _ in range(len(self._settled)):
            flow = self._flows[self._settled.popleft()]
            flow.used = max(0, flow.used - 1)

    def _next(self, prefetch: int, looked_at: float) -> str | None:
        """The queue whose turn it is; None: its messages are awaited."""
        candidates = [name for name, buffer in self._buffers.items() if buffer or self._flows[name].backlog]
        while True:
            name = candidates[0] if self._strict else self._richest(candidates)
            buffer = self._buffers[name]
            if self._flows[name].awaited(not buffer, looked_at, functools.partial(self._has_backlog, name)):
                return None
            if buffer:
                break
            candidates.remove(name)
        if not self._strict:
            self._pay(name, prefetch)
        return name

    def _richest(self, candidates: Sequence[str]) -> str:
        """Who would be the richest if each queue gained its weight now."""
        lowest = min(self._claims.values(), default=0)  # what is consumed no more has no claim and comes last
        return max(
            candidates,
            key=lambda name: self._claims[name] + self._weights[name] if name in self._weights else lowest - 1,
        )

    def _pay(self, pick: str, prefetch: int) -> None:
        claims, total = self._claims, sum(self._weights.values())
        bound = prefetch * total  # a message costs the sum of all weights: this is a prefetch of them
        for name, weight in self._weights.items():
            claims[name] = min(bound, claims[name] + weight)
        if pick in self._weights:
            claims[pick] = max(-bound, claims[pick] - total)
