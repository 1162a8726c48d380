"""What a source takes in: from which queues, how much there is room for, and what it has and has not settled yet."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence

from greenworker.broker.delivery import Delivery, QueueSpec, Settles
from greenworker.broker.redis.message import unpack
from greenworker.broker.redis.refusal import Problem
from greenworker.broker.redis.session import Session, Take, Taken, TakeResult, Wanted

BATCH = 200  # messages taken at once: the slots get a turn before the next batch


class Intake:
    """Used by the loop alone."""

    def __init__(self, *, strict_order: bool) -> None:
        self.prefetch = 1
        self.stopped = False  # nothing more is taken
        self.more = True  # there may be messages: the bell rang, or the last take was as large as it could be
        self._strict = strict_order
        self._specs: dict[str, QueueSpec] = {}  # the consumed queues, in order
        self._credits: dict[str, int] = {}  # by which they take turns
        self._unsettled: dict[str, str] = {}  # tag -> queue
        self._out: Counter[str] = Counter()  # unsettled deliveries of each queue
        self._arrived: deque[Taken] = deque()  # taken, and not handed on yet
        self._problem = Problem("A queue's key in Redis cannot be taken from: %s")

    # --- queues

    @property
    def queues(self) -> Sequence[QueueSpec]:
        """The consumed ones."""
        return tuple(self._specs.values())

    @property
    def names(self) -> Sequence[str]:
        """Theirs."""
        return tuple(self._specs)

    def add(self, queue: QueueSpec) -> None:
        """Take from it, too; it may have messages."""
        self._specs[queue.name] = queue
        self.more = True

    def remove(self, name: str) -> None:
        """Take no more from it; what was taken stays."""
        self._specs.pop(name, None)
        self._credits.pop(name, None)

    # --- taking

    @property
    def has_room(self) -> bool:
        """Whether anything may be taken now."""
        return not self.stopped and any(self._rooms(Counter()).values())

    def plan(self, session: Session, settling: Iterable[str], *, look: bool) -> Take | None:
        """What to take, if there may be messages, or it is time to ``look``, and there is room. ``settling`` are tags
        that are settled in the same turn.
        """
        if self.stopped or not (self.more or look):
            return None
        rooms = self._rooms(Counter(self._unsettled[tag] for tag in settling if tag in self._unsettled))
        wanted = [
            Wanted(name, room, self._specs[name].weight, self._credits.get(name, 0))
            for name, room in rooms.items()
            if room
        ]
        if not wanted:
            return None
        room = sum(each.most for each in wanted) if self._strict else wanted[0].most
        return session.take(wanted, min(BATCH, room), strict=self._strict)

    def took(self, take: Take, result: TakeResult) -> None:
        """``result`` came of ``take``."""
        for message in result.taken:
            self._unsettled[message.tag] = message.queue
            self._out[message.queue] += 1
        self._arrived += result.taken
        self._credits.update((name, credit) for name, credit in result.credits.items() if name in self._specs)
        self.more = take.filled(result.taken)
        self._problem.now(result.problem)

    def hand_out(self, on_delivery: Callable[[Delivery], None], source: Settles) -> bool:
        """Hand on what has arrived; returns whether anything had."""
        arrived = bool(self._arrived)
        while self._arrived:
            taken = self._arrived.popleft()
            received = unpack(taken.raw, taken.queue)
            on_delivery(
                Delivery(
                    tag=taken.tag,
                    queue=taken.queue,
                    envelope=received.envelope,
                    exchange=received.exchange,
                    routing_key=received.routing_key,
                    redelivered=received.redelivered,
                    source=source,
                )
            )
        return arrived

    def _rooms(self, settling: Counter[str]) -> dict[str, int]:
        """How many may be taken from each queue, ``settling`` of its unsettled being settled in the same turn.

        In strict order each queue has the whole prefetch, so that the first never waits for others' settlements, but
        those behind one that has all of it get nothing; else all share it.
        """
        if self._strict:
            each = {name: self.prefetch - self._out[name] + settling[name] for name in self._specs}
            return dict(itertools.takewhile(lambda queue: queue[1] > 0, each.items()))
        return dict.fromkeys(self._specs, max(0, self.prefetch - len(self._unsettled) + settling.total()))

    # --- what is not settled yet

    def __len__(self) -> int:
        return len(self._unsettled)

    def __contains__(self, tag: object) -> bool:
        return tag in self._unsettled

    @property
    def unsettled(self) -> Iterable[str]:
        """The tags of what is taken and not settled."""
        return self._unsettled.keys()

    def settled(self, tags: Iterable[str]) -> None:
        """They are, whoever did it."""
        for tag in tags:
            queue = self._unsettled.pop(tag, None)
            if queue is not None:
                self._out[queue] -= 1

    def clear(self) -> None:
        """Forget all of it: the session is over."""
        for collection in (self._unsettled, self._out, self._arrived):
            collection.clear()
