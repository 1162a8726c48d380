"""Keeping a message on RabbitMQ until it is due: Celery's native delayed delivery topology, declared when first used.

28 topic exchanges, each with a queue whose messages expire after 2**level seconds to the next lower level; the routing
key's first 28 words are the delay in binary, so that one message rests only in the queues that its delay is made of.
Declarations are kombu's (``kombu.transport.native_delayed_delivery``), so a Celery client shares them.
"""

from __future__ import annotations

from typing import Any

from amqp.exceptions import PreconditionFailed
from kombu.transport.native_delayed_delivery import (
    CELERY_DELAYED_DELIVERY_EXCHANGE,
    MAX_LEVEL,
    calculate_routing_key,
    declare_native_delayed_delivery_exchanges_and_queues,
    level_name,
)

from greenworker.broker.delivery import QueueSpec

LONGEST_DELAY = 2 ** (MAX_LEVEL + 1) - 1  # seconds, about 8.5 years

# Celery's default first: a topology declared as the other kind is found out by the broker's refusal, and shared.
_KINDS = ("quorum", "classic")


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
        self.bind(QueueSpec(queue))
        return str(level_name(min(int(delay), LONGEST_DELAY).bit_length() - 1))

    def bind(self, queue: QueueSpec) -> None:
        """Let delayed messages reach ``queue``, which is there: those sent to its name, as we do, and those sent to its
        exchange, as Celery's clients do unless it is a direct one.
        """
        if not self._declared:
            self._declare()
            self._declared = True
        if queue.name in self._bound:
            return
        channel = self._connection.channel()
        channel.queue_bind(queue.name, CELERY_DELAYED_DELIVERY_EXCHANGE, f"#.{queue.name}")
        if queue.exchange and queue.exchange_type != "direct":
            key = f"#.{(queue.routing_key or queue.name).removeprefix('#.')}"
            channel.exchange_bind(queue.exchange, CELERY_DELAYED_DELIVERY_EXCHANGE, key)
            channel.queue_bind(queue.name, queue.exchange, key)  # the delay stays in the key's front
        channel.close()
        self._bound.add(queue.name)

    def _declare(self) -> None:
        before = set(self._connection.channels)
        for kind in _KINDS:
            try:
                declare_native_delayed_delivery_exchanges_and_queues(self._connection, kind)
                return
            except PreconditionFailed:
                if kind == _KINDS[-1]:
                    raise
            finally:
                for number in set(self._connection.channels or ()) - before:  # kombu leaves its channel open
                    self._connection.channels[number].close()
