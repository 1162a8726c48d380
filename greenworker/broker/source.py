"""What the consumer's loop asks of a broker's task path; one class a broker keeps this contract.

Ownership, for all of them: the loop calls everything here except ``settle`` and ``wake``, which any greenlet or thread
may call. ``pump`` is one turn: write what is in the outbox, then take what the broker has, waiting for the socket or
the outbox, whichever comes first. A settlement never waits for the next delivery.

A connection that is lost ends in ConnectionLostError (broker/connection.py), from whichever method notices it, and in
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from greenworker.broker.delivery import Delivery, QueueSpec, Settles


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to consume. ``strict_order``: each queue has a window of the whole prefetch, or the first would wait for the
    others' messages to be settled; who starts first is the pool's business. ``alternatives``: there are other brokers
    to go to when this one is away. Leases (seconds) concern Redis and the embedded broker, ``visibility_timeout`` Redis
    alone, the rest the embedded broker's file.
    """

    strict_order: bool = False
    alternatives: bool = False
    synchronous: str = "normal"
    file_group: str | None = None
    lease_timeout: float = 60.0
    visibility_timeout: float = 3_600.0


class Source(Settles, Protocol):
    """Deliveries in, settlements out. Dies with its connection; a new one is made at every reconnect."""

    on_delivery: Callable[[Delivery], None]
    asynchronous: bool  # can live on kombu's Hub: register() and turn() work

    @property
    def unsettled(self) -> int:
        """How many deliveries were handed out and are not settled yet."""

    def start(self, queues: Sequence[QueueSpec], prefetch: int) -> None:
        """Declare and consume; at most ``prefetch`` deliveries are unsettled at a time, over all queues.

        Raises BrokerError for a queue that is missing and may not be declared.
        """

    def add_queue(self, queue: QueueSpec) -> None:
        """Consume one more queue. Raises as ``start``."""

    def cancel_queue(self, name: str) -> None:
        """Stop consuming a queue; what was delivered from it stays ours."""

    def set_prefetch(self, count: int) -> None:
        """Change the limit while consuming, at the next turn; what was delivered above a smaller one stays ours."""

    def pump(self, timeout: float) -> None:
        """One turn of the sync loop, ``timeout`` seconds at most."""

    def flush(self) -> None:
        """Write all settlements that wait in the outbox."""

    def register(self, hub: Any, wake: Callable[[], None]) -> None:
        """Live on kombu's Hub instead of ``pump``: add readers to it; call ``wake`` when the outbox fills."""

    def turn(self) -> None:
        """What the Hub's loop calls once a turn: settlements and whatever else is due."""

    def unregister(self, hub: Any) -> None:
        """Leave the Hub. Harmless if never registered, and on a lost connection."""

    def stop(self) -> None:
        """Take no more deliveries: what is still on its way goes back. Settlements still go out. Harmless twice."""

    def wake(self) -> None:
        """End the wait in ``pump`` now."""

    def close(self) -> None:
        """Write the outbox, give every unsettled delivery back, leave the broker. Never raises; harmless when lost."""
