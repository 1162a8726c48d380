"""Declaring queues on RabbitMQ, and living with those that exist with other arguments."""

from __future__ import annotations

import logging
from typing import Any

from amqp.exceptions import NotFound, PreconditionFailed

from greenworker.broker.delivery import QueueSpec
from greenworker.errors import BrokerError

logger = logging.getLogger(__name__)


class MissingQueueError(BrokerError):
    """A queue is not on the broker and the settings say that it is not ours to declare."""


def queue_arguments(queue: QueueSpec) -> dict[str, Any]:
    """The ``x-`` arguments of a declaration. A classic queue has no ``x-queue-type``, as Celery declares it."""
    arguments = dict(queue.arguments)
    if queue.type != "classic":
        arguments["x-queue-type"] = queue.type
    if queue.max_priority is not None:
        arguments["x-max-priority"] = queue.max_priority
    return arguments


def declare(connection: Any, queue: QueueSpec) -> bool:
    """Declare ``queue`` with its exchange and binding on an open py-amqp connection.

    Returns True if it is there as described. Returns False if it may be of any kind: it is not ours to declare, or it
    exists with other arguments, which is logged and lived with, since deleting it is not ours to do. Raises
    MissingQueueError if it is missing and may not be declared.
    """
    channel = connection.channel()
    try:
        if not queue.declare:
            channel.queue_declare(queue.name, passive=True)
            return False
        as_described = _declare_queue(channel, queue)
        if queue.exchange:
            channel.exchange_declare(queue.exchange, queue.exchange_type, durable=True, auto_delete=False)
            channel.queue_bind(queue.name, queue.exchange, queue.routing_key or queue.name)
    except NotFound:
        raise MissingQueueError(
            f"queue {queue.name} is not on the broker and [queue {queue.name}] declare is off: create it there first"
        ) from None
    finally:
        if channel.is_open:
            channel.close()
    return as_described


def _declare_queue(channel: Any, queue: QueueSpec) -> bool:
    try:
        channel.queue_declare(queue.name, durable=queue.durable, auto_delete=False, arguments=queue_arguments(queue))
    except PreconditionFailed as exc:  # py-amqp has opened the channel again
        logger.warning(
            "Queue %s exists with other arguments than [queue %s] says; used as it is. The broker says: %s",
            queue.name,
            queue.name,
            exc.reply_text,
        )
        return False
    return True
