"""The outbox: settlements on their way to Redis, filled from anywhere, emptied by the loop.

A batch that was sent over a line that broke is in doubt: Redis may have seen it. It is sent again, which does no harm,
for a tag is settled once; only that a tag is not there any more then means nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from greenworker.broker.delivery import Settlement

CHUNK = 1_000  # settlements in one script


@dataclass(slots=True)
class Settled:
    """Tags by what becomes of their messages; the publisher has settled those that it replaced itself."""

    acked: list[str] = field(default_factory=list)
    requeued: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)


class Outbox:
    """Used by the loop alone, but for ``put``."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, Settlement | None]] = deque()
        self._in_doubt: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, tag: str, settlement: Settlement | None) -> None:
        """``settlement`` None: there is nothing to write, it is replaced."""
        self._waiting.append((tag, settlement))

    def take(self) -> Settled:
        """The next batch."""
        batch = Settled()
        lists = {Settlement.ACK: batch.acked, Settlement.REQUEUE: batch.requeued, None: batch.replaced}
        for _ in range(min(len(self._waiting), CHUNK)):
            tag, settlement = self._waiting.popleft()
            lists[settlement].append(tag)
        return batch

    def put_back(self, batch: Settled, unsettled: Container[str]) -> None:
        """It was not answered: what is still ``unsettled`` of it is in doubt, and sent again first."""
        kinds = ((batch.acked, Settlement.ACK), (batch.requeued, Settlement.REQUEUE), (batch.replaced, None))
        again = [(tag, settlement) for tags, settlement in kinds for tag in tags if tag in unsettled]
        self._in_doubt.update(tag for tag, _ in again)
        self._waiting.extendleft(reversed(again))

    def certain(self, tags: Iterable[str]) -> int:
        """How many of ``tags`` Redis cannot have settled before."""
        return sum(tag not in self._in_doubt for tag in tags)

    def answered(self, tags: Iterable[str]) -> None:
        """They are settled for certain."""
        self._in_doubt.difference_update(tags)

    def clear(self) -> None:
        """Forget all of it: the session is over."""
        self._waiting.clear()
        self._in_doubt.clear()
