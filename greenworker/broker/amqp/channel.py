"""One AMQP channel of the task path: its consumers, their windows, its settlements; messages made into Deliveries.

A limit is either the channel's (shared by its consumers) or each consumer's own, fixed when the consumer starts. To
change the latter a new consumer begins with the new window, and then the old one ends: no gap, no duplicate.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from amqp.exceptions import FrameSyntaxError

from greenworker.broker.amqp.settlements import Settlements
from greenworker.broker.delivery import Delivery, Envelope, QueueSpec, Settlement

if TYPE_CHECKING:
    from greenworker.broker.amqp.source import AmqpSource

logger = logging.getLogger(__name__)

_UNREADABLE = (struct.error, IndexError, ValueError, FrameSyntaxError, RecursionError)


class _QueueSink:
    """Makes Deliveries of one consumer's messages."""

    __slots__ = ("_channel", "_exchange", "_queue", "_route", "_routing_key", "_source")

    def __init__(self, channel: TaskChannel, source: AmqpSource, queue: str) -> None:
        self._channel = channel
        self._source = source
        self._queue = queue
        self._route = b""  # the last message's, and what it says: the next one's is nearly always the same
        self._exchange = ""
        self._routing_key = ""

    def __call__(self, tag: int, redelivered: bool, route: bytes, properties: bytes, body: bytes) -> None:
        channel, source = self._channel, self._source
        channel.settlements.delivered(tag)
        if source.stopped:
            channel.settlements.put(tag, Settlement.REQUEUE)
            return
        if route != self._route:
            self._read_route(route)
        delivery = Delivery(
            tag, self._queue, self._envelope(properties, body), self._exchange, self._routing_key, redelivered, channel
        )
        source.receive(delivery)

    def _envelope(self, properties: bytes, body: bytes) -> Envelope:
        try:
            found = self._source.decoder.decode(properties)
        except _UNREADABLE as exc:
            # RabbitMQ does not look into them. As a message without a task it goes the way of all malformed ones.
            logger.error("A message of queue %s has properties that cannot be read: %r", self._queue, exc)
            found = {}
        content_type = found.pop("content_type", None)
        content_encoding = found.pop("content_encoding", None)
        headers = found.pop("application_headers", None)
        return Envelope(body, content_type, content_encoding, {} if headers is None else headers, found)

    def _read_route(self, route: bytes) -> None:
        end = 1 + route[0]
        self._route = route
        self._exchange = route[1:end].decode("utf-8", "replace")
        self._routing_key = route[end + 1 :].decode("utf-8", "replace")


class TaskChannel:
    """One channel. ``settlements.put`` apart, the loop alone calls what is here."""

    def __init__(self, source: AmqpSource, number: int) -> None:
        self._source = source
        self._channel = source.connection.channel()
        self._id: int = self._channel.channel_id
        self._number = number
        self._generation = 0
        self._shared_limit = 0  # 0: none
        self._consumers: dict[str, tuple[str, int]] = {}  # queue name -> consumer tag, its own window (0: none)
        self.settlements = Settlements(self._id)

    @property
    def closed(self) -> bool:
        return self._source.closed

    def settle(self, delivery: Delivery, settlement: Settlement) -> None:
        source = self._source
        if not source.closed:
            self.settlements.put(delivery.tag, settlement)  # type: ignore[arg-type]  # ours are numbers
            source.note_settled(delivery.queue)
            source.wake()

    def consume_shared(self, queues: Sequence[QueueSpec], limit: int) -> None:
        """Consume ``queues`` with one limit over all of them."""
        if limit != self._shared_limit:
            self._channel.basic_qos(0, limit, True)
            self._shared_limit = limit
        for queue in queues:
            self._consume(queue.name, 0)

    def consume_windows(self, queues: Sequence[QueueSpec], windows: Mapping[str, int]) -> None:
        """Consume ``queues``, each with a window of its own."""
        if self._shared_limit:
            # A window for new consumers lifts the shared limit, and the old ones would get everything there is: for
            # this one time there is a gap.
            self.cancel_all()
            self._channel.basic_qos(0, 0, True)
            self._shared_limit = 0
        for queue in queues:
            self._consume(queue.name, windows[queue.name])

    def cancel(self, queue: str) -> None:
        """Stop consuming ``queue``, if it was consumed."""
        consumer = self._consumers.pop(queue, None)
        if consumer is not None:
            self._end(consumer[0])

    def cancel_all(self) -> None:
        """Stop consuming."""
        for queue in list(self._consumers):
            self.cancel(queue)

    def flush(self) -> None:
        """Write the settlements that wait."""
        data = self.settlements.frames()
        if data:
            self._source.connection.write(data)

    def _consume(self, queue: str, window: int) -> None:
        old = self._consumers.get(queue)
        if old is not None and old[1] == window:
            return
        if window or old is not None:
            self._channel.basic_qos(0, window, False)  # holds for consumers that start after it
        self._generation += 1
        tag = f"{queue[:50]}.{self._number}.{self._generation}"
        self._source.connection.sinks[self._id, tag.encode()] = _QueueSink(self, self._source, queue)
        self._consumers[queue] = (tag, window)
        self._channel.basic_consume(queue, tag, on_cancel=self._on_cancelled_by_broker)
        if old is not None:
            self._end(old[0])

    def _end(self, tag: str) -> None:
        self._channel.basic_cancel(tag)
        # only now: what was on its way until the broker had answered is still delivered to us
        self._source.connection.sinks.pop((self._id, tag.encode()), None)

    def _on_cancelled_by_broker(self, tag: str) -> None:
        self._source.connection.sinks.pop((self._id, tag.encode()), None)
        for queue, (own_tag, _) in list(self._consumers.items()):
            if own_tag == tag:
                del self._consumers[queue]
                self._source.queue_vanished(queue)
