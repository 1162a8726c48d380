"""Keeping a message on RabbitMQ until it is due: Celery's native delayed delivery topology, declared when first used.

28 topic exchanges, each with a queue whose messages expire after 2**level seconds to the next lower level; the routing
key's first 28 words are the delay in binary, so that one message rests only in the queues that its delay is made of.
Declarations are kombu's (``kombu.transport.native_delayed_delivery``), so a Celery client shares them.
"""

from __future__ import annotations

from typing import Any

from kombu.transport.native_delayed_delivery import (
    MAX_LEVEL,
    calculate_routing_key,
    declare_native_delayed_delivery_exchanges_and_queues,
    level_name,
)

DELIVERY_EXCHANGE = "celery_delayed_delivery"
LONGEST_DELAY = 2 ** (MAX_LEVEL + 1) - 1  # seconds, about 8.5 years


def delayed_routing_key(delay: float, queue: str) -> str:
    """The routing key that brings a message to ``queue`` after ``delay`` whole seconds (rounded down)."""
    return str(calculate_routing_key(min(int(delay), LONGEST_DELAY), queue))


class DelayTopology:
    """The delay exchanges as declared over one connection; which queues are bound to their end."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._declared = False
        self._bound: set[str] = set()

    def exchange_for(self, delay: float, queue: str) -> str:
        """Make sure that a delayed message reaches ``queue``; returns the exchange to publish it to."""
        if not self._declared:
            declare_native_delayed_delivery_exchanges_and_queues(self._connection, "classic")
            self._declared = True
        if queue not in self._bound:
            channel = self._connection.channel()
            channel.queue_bind(queue, DELIVERY_EXCHANGE, f"#.{queue}")
            channel.close()
            self._bound.add(queue)
        return str(level_name(min(int(delay), LONGEST_DELAY).bit_length() - 1))
