"""What the consumer's loop asks of a broker's task path; one class a broker keeps this contract.

Ownership, for all of them: the loop calls everything here except ``settle`` and ``wake``, which any greenlet or thread
may call. ``pump`` is one turn: write what is in the outbox, then take what the broker has, waiting for the socket or
the outbox, whichever comes first. A settlement never waits for the next delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from greenworker.broker.delivery import Delivery, QueueSpec, Settles


class Source(Settles, Protocol):
    """Deliveries in, settlements out. Dies with its connection; a new one is made at every reconnect."""

    on_delivery: Callable[[Delivery], None]
    asynchronous: bool  # can live on kombu's Hub: register() and flush() work

    @property
    def unsettled(self) -> int:
        """How many deliveries were handed out and are not settled yet."""

    def start(self, queues: Sequence[QueueSpec], prefetch: int) -> None:
        """Declare and consume; at most ``prefetch`` deliveries are unsettled at a time, over all queues."""

    def add_queue(self, queue: QueueSpec) -> None:
        """Consume one more queue."""

    def cancel_queue(self, name: str) -> None:
        """Stop consuming a queue; what was delivered from it stays ours."""

    def set_prefetch(self, count: int) -> None:
        """Change the limit while consuming; deliveries above a smaller limit stay ours until settled."""

    def pump(self, timeout: float) -> None:
        """One turn of the sync loop, ``timeout`` seconds at most. Raises OSError when the connection is lost."""

    def flush(self) -> None:
        """Write all settlements that wait in the outbox."""

    def register(self, hub: Any, wake: Callable[[], None]) -> None:
        """Live on kombu's Hub instead of ``pump``: readers are added to it, ``wake`` is called when the outbox fills."""

    def stop(self) -> None:
        """Take no more deliveries; settlements still go out."""

    def wake(self) -> None:
        """End the wait in ``pump`` now."""

    def close(self) -> None:
        """Write the outbox, give every unsettled delivery back, leave the broker. Harmless on a lost connection."""
