"""Tasks: consumes the queues and hands each delivery to its task's strategy. ``Intake.on_delivery`` is the way in."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar

from greenworker.bootsteps import ConsumerStep
from greenworker.broker.connection import ConnectionLostError
from greenworker.broker.delivery import Delivery
from greenworker.consumer.strategy import Strategy, prepare
from greenworker.errors import MalformedMessage, NotRegistered
from greenworker.execution import task_signals
from greenworker.protocol.message import Limits, decode_task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greenworker.consumer.consumer import Consumer

logger = logging.getLogger(__name__)


class Intake:
    """A message's way in, in order: decode, find the task's strategy, call it. What cannot go on is buried.

    ``strategies`` is written by the Tasks step and by remote control, read here.
    """

    def __init__(self, consumer: Consumer) -> None:
        settings = consumer.parts.settings
        self._consumer = consumer
        self.strategies: dict[str, Strategy] = {}
        self._accept = frozenset(settings.broker.accept)
        self._limits = Limits(max_body_bytes=settings.worker.max_body_bytes)
        self._registry = consumer.parts.app.tasks
        self._dead_letters = consumer.parts.services.dead_letters
        self._dispatcher = consumer.parts.services.dispatcher

    def on_delivery(self, delivery: Delivery) -> None:
        """Take one message off the broker. Never raises."""
        try:
            message = decode_task(delivery.envelope, self._accept, self._limits)
        except MalformedMessage as exc:
            self._dead_letters.bury(delivery, "malformed", exc.reason)
            task_signals.rejected(delivery, exc, self._consumer)
            return
        strategy = self.strategies.get(message.task)
        if strategy is None:
            unknown = NotRegistered(self._registry.unknown(message.task))
            self._dispatcher.refuse(message, delivery, unknown, self._consumer)
            return
        try:
            strategy(message, delivery)
        except Exception as exc:  # a strategy or request class of the user's own: its fault must not end the loop
            logger.exception("The strategy of task %s failed on message %s", message.task, message.id)
            reason = f"the strategy of task {message.task} failed: {type(exc).__name__}: {exc}"
            self._dead_letters.bury(delivery, "strategy", reason)


class Tasks(ConsumerStep["Consumer"]):
    """Prepares the strategies and starts consuming."""

    name: ClassVar[str] = "tasks"
    requires: ClassVar[tuple[str, ...]] = ("connection",)

    def start(self, consumer: Consumer) -> None:
        parts = consumer.parts
        for task in parts.app.tasks.values():
            parts.services.admission.limit(task.name, task.rate_limit)
            consumer.intake.strategies[task.name] = prepare(task, parts.services)
        assert consumer.source is not None
        consumer.source.start(list(parts.queues.values()), consumer.prefetch.begin())
        consumer.pause.begin()

    def close(self, consumer: Consumer) -> None:
        if consumer.source is not None:
            try:
                consumer.source.stop()
            except ConnectionLostError as exc:
                logger.debug("Nothing to stop consuming from: %s", exc)  # the loop learns of it at its next turn

    def info(self, consumer: Consumer) -> Mapping[str, Any]:
        return {
            "queues": list(consumer.parts.queues),
            "prefetch_count": consumer.prefetch.target(),
            "paused": consumer.pause.paused,
        }
