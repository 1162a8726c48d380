"""One message as the broker handed it over, and its settlement: exactly once, through the source's outbox.

The rule this file keeps: whoever settles first wins. A second settlement of the same delivery does nothing and says so
by returning False, so that a late outcome (a task that outlived its limit) can never ack a message twice.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from greenworker.protocol.message import Envelope

__all__ = ["Delivery", "Envelope", "QueueSpec", "Settlement", "Settles"]


class Settlement(enum.Enum):
    """What becomes of a delivery. No plain reject: a message is never thrown away, it goes to a dead-letter queue."""

    ACK = "ack"
    REQUEUE = "requeue"


class Settles(Protocol):
    """The source (or the one channel of it) that a delivery came from."""

    @property
    def closed(self) -> bool:
        """Whether its connection is gone or given up: what it delivered and has not settled is delivered again."""

    def settle(self, delivery: Delivery, settlement: Settlement) -> None:
        """Queue the settlement and wake the loop. Callable from any greenlet or thread, never blocks."""


@dataclass(slots=True, eq=False)
class Delivery:
    """A message taken off a queue and not settled yet.

    ``tag`` is valid on ``source`` alone: after a reconnect a settlement goes to a source that is closed, which drops
    it, and the broker delivers the message again.
    """

    tag: int | str
    queue: str
    envelope: Envelope
    exchange: str
    routing_key: str
    redelivered: bool
    source: Settles
    settled: Settlement | None = field(default=None)  # written by settle() alone

    def settle(self, settlement: Settlement) -> bool:
        """Settle once; returns False, and does nothing, if it was settled before."""
        if self.settled is not None:
            return False
        self.settled = settlement
        self.source.settle(self, settlement)
        return True

    def ack(self) -> bool:
        """The message is done with."""
        return self.settle(Settlement.ACK)

    def requeue(self) -> bool:
        """The message goes back to its queue, for this or another worker."""
        return self.settle(Settlement.REQUEUE)


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue as this worker declares and consumes it; ``arguments`` are the broker's own (``x-...``)."""

    name: str
    type: str = "classic"  # "classic" | "quorum"
    durable: bool = True
    exchange: str = ""  # "" is the default exchange: the routing key is the queue's name
    exchange_type: str = "direct"
    routing_key: str = ""  # "" stands for the queue's name
    max_priority: int | None = None
    weight: int = 1
    arguments: Mapping[str, Any] = field(default_factory=dict)
    dead_letter: bool = True
    declare: bool = True

    @property
    def dead_letter_queue(self) -> str:
        """Where messages go that no task can be made of."""
        return f"{self.name}.dead"
