"""A QueueSpec as rows of the queue file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from greenworker.broker.delivery import QueueSpec
from greenworker.broker.sqlite.store import Queue, QueueStore, Transaction


def declare(store: QueueStore, tx: Transaction, spec: QueueSpec) -> None:
    """Make the queue, and its exchange and binding where it has them. ``declare = false`` counts for shared brokers: a
    queue of the embedded one is nobody else's to make.
    """
    store.declare_queue(tx, queue_of(spec.name, spec.arguments))
    if spec.exchange:
        store.declare_exchange(tx, spec.exchange, spec.exchange_type)
        store.bind(tx, spec.name, spec.exchange, spec.routing_key or spec.name)


def queue_of(name: str, arguments: Mapping[str, Any]) -> Queue:
    """The queue for RabbitMQ's arguments, of which ``x-expires`` and ``x-message-ttl`` (milliseconds) count here."""
    return Queue(name, _seconds(arguments, "x-expires"), _seconds(arguments, "x-message-ttl"))


def _seconds(arguments: Mapping[str, Any], name: str) -> float | None:
    value = arguments.get(name)
    return None if value is None else float(value) / 1000
