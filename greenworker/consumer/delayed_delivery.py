"""DelayedDelivery: where a queue is a quorum queue, lets it take what Celery's clients send with an ETA.

Celery 5.5 and later send such messages to RabbitMQ's delay exchanges (``broker/amqp/delay``), and count on the worker
to have declared and bound them. After Tasks, which declares the queues that are bound.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar

from greenworker.bootsteps import ConsumerStep
from greenworker.broker.connection import ConnectionLostError, is_amqp
from greenworker.errors import BrokerError

if TYPE_CHECKING:
    from greenworker.consumer.consumer import Consumer

logger = logging.getLogger(__name__)


class DelayedDelivery(ConsumerStep["Consumer"]):
    """Declares the delay exchanges and binds the queues to their end."""

    name: ClassVar[str] = "delayed_delivery"
    requires: ClassVar[tuple[str, ...]] = ("tasks",)

    def include_if(self, parent: Consumer) -> bool:
        queues = parent.parts.queues.values()
        return is_amqp(parent.parts.settings.broker.url[0]) and any(queue.type == "quorum" for queue in queues)

    def start(self, consumer: Consumer) -> None:
        from greenworker.broker.amqp.source import AmqpSource

        assert isinstance(consumer.source, AmqpSource)
        try:
            consumer.source.bind_delays()
        except ConnectionLostError:
            raise
        except BrokerError as exc:
            logger.error("Tasks with an ETA may not arrive from Celery's clients, for RabbitMQ refuses %s", exc)
