"""Queues by name, as the settings describe them: what producers and workers declare and publish to."""

from __future__ import annotations

from greenworker.broker.delivery import QueueSpec
from greenworker.settings.model import Settings


def queue_spec(settings: Settings, name: str) -> QueueSpec:
    """The queue of that name: as ``[queue NAME]`` has it, else a durable classic queue on the default exchange."""
    section = settings.queues.get(name)
    if section is None:
        return QueueSpec(name)
    return QueueSpec(
        name,
        type=section.type,
        durable=section.durable,
        exchange=section.exchange or "",
        exchange_type=section.exchange_type,
        routing_key=section.routing_key or "",
        max_priority=section.max_priority,
        weight=section.weight,
        arguments=section.arguments,
        dead_letter=section.dead_letter,
        declare=section.declare,
    )
