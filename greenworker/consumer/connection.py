"""Connection: opens the broker connection that the rest of the blueprint lives on, from a failover list."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, ClassVar

from greenworker.app.services import connection_options
from greenworker.bootsteps import ConsumerStep
from greenworker.broker.connection import LoginRefusedError
from greenworker.broker.open import SourceOptions, make_source
from greenworker.broker.source import Source
from greenworker.errors import BrokerError, StateFolderError
from greenworker.settings.secrets import mask_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greenworker.consumer.consumer import Consumer

logger = logging.getLogger(__name__)


class ClosedWhileConnectingError(BrokerError):
    """The worker was told to stop before it had a connection."""


class Connection(ConsumerStep["Consumer"]):
    """Owns ``consumer.source``: the connection and what is consumed over it."""

    name: ClassVar[str] = "connection"

    def start(self, consumer: Consumer) -> None:
        consumer.source = self._connect(consumer)

    def stop(self, consumer: Consumer) -> None:
        if consumer.source is not None:
            consumer.source.close()

    def info(self, consumer: Consumer) -> Mapping[str, object]:
        broker = consumer.parts.settings.broker
        return {"broker": [mask_url(url) for url in broker.url], "blocked": consumer.parts.app.publisher.blocked}

    def _connect(self, consumer: Consumer) -> Source:
        """Try the brokers in turn until one answers. At the first start, raises what trying again does not mend."""
        broker = consumer.parts.settings.broker
        delay = broker.reconnect_delay
        first = consumer.blueprint.restart_count == 0
        while True:
            for url in broker.url:
                if consumer.closing.is_set():
                    raise ClosedWhileConnectingError("told to stop while connecting")
                try:
                    return self._open(consumer, url)
                except StateFolderError:
                    if first:
                        raise
                    logger.exception("The embedded broker cannot be opened")
                except BrokerError as exc:
                    if first and isinstance(exc, LoginRefusedError) and len(broker.url) == 1:
                        raise
                    logger.error("Cannot connect to %s, next try in about %.1f s", exc, delay)
            consumer.closing.wait(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, broker.reconnect_delay_max)

    @staticmethod
    def _open(consumer: Consumer, url: str) -> Source:
        parts, settings = consumer.parts, consumer.parts.settings
        return make_source(
            url,
            connection_options(settings),
            consumer.intake.on_delivery,
            parts.make_waiter(),
            SourceOptions(
                strict_order=settings.worker.queue_order == "strict",
                alternatives=len(settings.broker.url) > 1,
                synchronous=settings.broker.synchronous,
                file_group=settings.broker.file_group,
                lease_timeout=settings.broker.lease_timeout,
                visibility_timeout=settings.broker.visibility_timeout,
            ),
        )
