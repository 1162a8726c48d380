"""Dead letters: messages no task can be made of, or that a task refused, moved to ``<queue>.dead`` with the reason.

Published and confirmed before the original is acked, so that nothing is ever thrown away; a queue whose ``dead_letter``
is off is the operator's word that it may be, and then the log has the reason.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

from greenworker.broker.delivery import Delivery, QueueSpec
from greenworker.broker.publisher import Outgoing, Replacement
from greenworker.broker.replacer import Fate, Replacer
from greenworker.clock import Clock
from greenworker.protocol.dead_letter import dead_letter

logger = logging.getLogger(__name__)


class DeadLetters:
    """Writes dead letters, and buries deliveries that no request was made of. Callable from anywhere; never blocks."""

    def __init__(self, replacer: Replacer, queues: Mapping[str, QueueSpec], clock: Clock, hostname: str) -> None:
        self._replacer = replacer
        self._queues = queues
        self._clock = clock
        self._hostname = hostname

    def bury(self, delivery: Delivery, kind: str, reason: str) -> None:
        """Move ``delivery`` to its dead-letter queue. ``kind`` is one word (malformed, unknown, rejected)."""
        letter = self.letter(delivery, kind, reason)
        if letter is None:
            delivery.ack()
        else:
            self._replacer.put(Replacement(delivery, letter), _buried)

    def letter(self, delivery: Delivery, kind: str, reason: str) -> Outgoing | None:
        """The message for the dead-letter queue; None if the operator wants none. The log has the reason either way."""
        queue = self._queues.get(delivery.queue) or QueueSpec(delivery.queue)
        if not queue.dead_letter:
            logger.error(
                "Message of queue %s (%s) is dropped, [queue] dead_letter being off: %s", queue.name, kind, reason
            )
            return None
        logger.error("Message of queue %s (%s) goes to %s: %s", queue.name, kind, queue.dead_letter_queue, reason)
        letter = dead_letter(
            delivery.envelope,
            queue=queue.name,
            reason=reason,
            kind=kind,
            at=self._clock.utcnow(),
            hostname=self._hostname,
        )
        target = dead_letter_spec(queue)
        return Outgoing(letter, target.name, queue=target)


def _buried(fate: Fate) -> None:
    """Nothing is left to do: what was dropped comes again; what cannot be sent was logged, and stays unacked."""


def dead_letter_spec(queue: QueueSpec) -> QueueSpec:
    """The dead-letter queue of ``queue``: as durable, on the default exchange, without its special arguments."""
    return dataclasses.replace(
        queue,
        name=queue.dead_letter_queue,
        exchange="",
        exchange_type="direct",
        routing_key="",
        max_priority=None,
        arguments={},
        declare=True,
    )
