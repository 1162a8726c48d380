"""RabbitMQ's task path: queues consumed over our chunked connection, settlements written together once a turn.

Prefetch has two forms. Shared: one limit a channel, over all its queues (classic queues, RabbitMQ before 4). By consumer:
each queue has a window of its own, fixed when its consumer starts, so that a change means a new consumer with the new
window and then the old one's end: no gap, no duplicate (quorum queues, RabbitMQ 4, and queues with weights or in strict
order, where the windows are what shares out the slots). A limit has 16 bits, so a larger prefetch takes more channels.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import kombu

from greenworker.broker.amqp.connection import Connection
from greenworker.broker.amqp.declare import declare
from greenworker.broker.amqp.properties import PropertyDecoder
from greenworker.broker.amqp.settlements import Settlements
from greenworker.broker.delivery import Delivery, Envelope, QueueSpec, Settlement
from greenworker.green.base import LoopWaiter

logger = logging.getLogger(__name__)

MAX_WINDOW = 65_535  # basic.qos counts in 16 bits, and 0 would mean unlimited
QUORUM_CLOSE_PAUSE = 0.05  # of 500 acks right before a close quorum queues lost 33; after a pause of 20 ms none
REDECLARE_INTERVAL = 5.0  # how soon a queue that vanished, and could not be declared again, is tried once more


class _QueueSink:
    """Makes Deliveries of one consumer's messages."""

    __slots__ = ("_channel", "_queue")

    def __init__(self, channel: _TaskChannel, queue: str) -> None:
        self._channel = channel
        self._queue = queue

    def __call__(self, tag: int, redelivered: bool, route: bytes, properties: bytes, body: bytes) -> None:
        channel = self._channel
        found = channel.source.decoder.decode(properties)
        envelope = Envelope(
            body=body,
            content_type=found.pop("content_type", None),
            content_encoding=found.pop("content_encoding", None),
            headers=found.pop("application_headers", None) or {},
            properties=found,
        )
        exchange_end = 1 + route[0]
        delivery = Delivery(
            tag=tag,
            queue=self._queue,
            envelope=envelope,
            exchange=route[1:exchange_end].decode("utf-8", "replace"),
            routing_key=route[exchange_end + 1 :].decode("utf-8", "replace"),
            redelivered=redelivered,
            source=channel,
        )
        channel.unsettled += 1
        channel.source.on_delivery(delivery)


class _TaskChannel:
    """One AMQP channel with its consumers and its settlements.

    ``unsettled`` is written by the loop alone: up at a delivery, down when settlements are written.
    """

    def __init__(self, source: AmqpSource, number: int) -> None:
        self.source = source
        self.unsettled = 0
        self._channel = source.connection.channel()
        self._settlements = Settlements(self._channel.channel_id)
        self._number = number
        self._generation = 0
        self._consumers: dict[str, tuple[str, int | None]] = {}  # queue name -> consumer tag, its own window

    def settle(self, delivery: Delivery, settlement: Settlement) -> None:
        assert isinstance(delivery.tag, int)
        self._settlements.put(delivery.tag, settlement)
        self.source.wake()

    def share(self, limit: int) -> None:
        """One limit over all consumers of this channel."""
        self._channel.basic_qos(0, limit, True)

    def consume(self, queue: QueueSpec, window: int | None) -> None:
        """Consume ``queue``; an older consumer of the same queue ends after the new one has begun."""
        old = self._consumers.get(queue.name)
        if old is not None and old[1] == window:
            return
        if window is not None:
            self._channel.basic_qos(0, window, False)
        self._generation += 1
        tag = f"{queue.name[:100]}.{self._number}.{self._generation}"
        self.source.connection.sinks[self._channel.channel_id, tag.encode()] = _QueueSink(self, queue.name)
        self._consumers[queue.name] = (tag, window)
        self._channel.basic_consume(queue.name, tag, on_cancel=self._on_cancelled_by_broker)
        if old is not None:
            self._cancel(old[0])

    def cancel(self, queue: str) -> None:
        consumer = self._consumers.pop(queue, None)
        if consumer is not None:
            self._cancel(consumer[0])

    def cancel_all(self) -> None:
        for queue in list(self._consumers):
            self.cancel(queue)

    def flush(self) -> None:
        data, settled = self._settlements.frames()
        if data:
            self.source.connection.write(data)
            self.unsettled -= settled

    def _cancel(self, tag: str) -> None:
        # the sink stays: what is on its way until the broker has answered is still delivered to us
        self._channel.basic_cancel(tag)
        self.source.connection.sinks.pop((self._channel.channel_id, tag.encode()), None)

    def _on_cancelled_by_broker(self, tag: str) -> None:
        for queue, (own_tag, _) in list(self._consumers.items()):
            if own_tag == tag:
                del self._consumers[queue]
                self.source.connection.sinks.pop((self._channel.channel_id, tag.encode()), None)
                self.source.queue_vanished(queue)


class AmqpSource:
    """The Source (broker/source.py) of a RabbitMQ connection. ``strict`` queue order and weights need windows."""

    asynchronous = True

    def __init__(
        self,
        connection: kombu.Connection,
        on_delivery: Callable[[Delivery], None],
        waiter: LoopWaiter,
        *,
        strict_order: bool = False,
    ) -> None:
        self.connection: Connection = connection.connection
        self.decoder = PropertyDecoder()
        self.on_delivery = on_delivery
        self._kombu = connection
        self._waiter = waiter
        self._wake: Callable[[], None] = waiter.ring
        self._strict = strict_order
        self._queues: dict[str, QueueSpec] = {}
        self._channels: list[_TaskChannel] = []
        self._prefetch = 0
        self._shared = True
        self._vanished: dict[str, float] = {}  # queue name -> monotonic time of the next try to declare it
        self._heartbeat_at = 0.0
        self._stopped = False

    # --- what the consumer's steps call -------------------------------------------------------------------------

    @property
    def unsettled(self) -> int:
        return sum(channel.unsettled for channel in self._channels)

    def start(self, queues: Sequence[QueueSpec], prefetch: int) -> None:
        as_described = [declare(self.connection, queue) for queue in queues]
        self._queues = {queue.name: queue for queue in queues}
        self._shared = all(as_described) and self._shared_limit_works()
        self.set_prefetch(prefetch)

    def add_queue(self, queue: QueueSpec) -> None:
        self._shared = declare(self.connection, queue) and self._shared and queue.type == "classic"
        self._queues[queue.name] = queue
        self._apply()

    def cancel_queue(self, name: str) -> None:
        self._queues.pop(name, None)
        self._vanished.pop(name, None)
        for channel in self._channels:
            channel.cancel(name)

    def set_prefetch(self, count: int) -> None:
        self._prefetch = max(1, count)
        self._apply()

    def stop(self) -> None:
        self._stopped = True
        for channel in self._channels:
            channel.cancel_all()

    def close(self) -> None:
        try:
            if self._kombu.connected:
                self.flush()
                if any(queue.type == "quorum" for queue in self._queues.values()) or not self._shared:
                    time.sleep(QUORUM_CLOSE_PAUSE)
        finally:
            self._kombu.release()

    # --- the loop -----------------------------------------------------------------------------------------------

    def pump(self, timeout: float) -> None:
        self.flush()
        if self._vanished:
            timeout = min(timeout, self._redeclare())
        self._heartbeat()
        if not self.connection.buffered:
            beat = self.connection.heartbeat
            within = min(timeout, beat / 4) if beat else timeout
            if not self._waiter.wait(self.connection.sock.fileno(), within):
                return
        self.connection.read_ready()

    def flush(self) -> None:
        for channel in self._channels:
            channel.flush()

    def wake(self) -> None:
        self._wake()

    def register(self, hub: Any, wake: Callable[[], None]) -> None:
        self._wake = wake
        hub.add_reader(self.connection.sock, self._on_readable)

    def turn(self) -> None:
        """What a Hub's loop calls once a turn: settlements, heartbeat, vanished queues."""
        self.flush()
        if self._vanished:
            self._redeclare()
        self._heartbeat()

    def _on_readable(self) -> None:
        self.connection.read_ready()
        while self.connection.buffered:
            self.connection.read_ready()

    def _heartbeat(self) -> None:
        beat, now = self.connection.heartbeat, time.monotonic()
        if beat and now >= self._heartbeat_at:
            self._heartbeat_at = now + beat / 4
            self.connection.heartbeat_tick(rate=2)

    # --- prefetch and queues ------------------------------------------------------------------------------------

    def _shared_limit_works(self) -> bool:
        queues = self._queues.values()
        version = str(self.connection.server_properties.get("version", ""))
        major = version.partition(".")[0]
        return (
            not self._strict
            and all(queue.type == "classic" for queue in queues)
            and len({queue.weight for queue in queues}) <= 1
            and major.isdigit()
            and int(major) < 4
        )

    def _apply(self) -> None:
        """Bring channels, limits and consumers in line with queues and prefetch."""
        if self._stopped:
            return
        shares = split_prefetch(self._prefetch)
        while len(self._channels) < len(shares):
            self._channels.append(_TaskChannel(self, len(self._channels) + 1))
        for channel in self._channels[len(shares) :]:  # 0 would be unlimited: a channel too many stops consuming
            channel.cancel_all()
        consumed = [queue for name, queue in self._queues.items() if name not in self._vanished]
        for channel, share in zip(self._channels, shares, strict=False):
            if self._shared:
                channel.share(share)
            windows = split_windows(share, consumed, strict=self._strict)
            for queue in consumed:
                channel.consume(queue, None if self._shared else windows[queue.name])

    def queue_vanished(self, name: str) -> None:
        """The broker ended a consumer: its queue was deleted, or moved to another node."""
        logger.warning("Queue %s is gone from the broker: declaring it again.", name)
        self._vanished[name] = 0.0

    def _redeclare(self) -> float:
        """Declare vanished queues whose time has come; returns seconds until the next one's."""
        now = time.monotonic()
        for name, due in list(self._vanished.items()):
            if due > now or self._stopped:
                continue
            try:
                declare(self.connection, self._queues[name])
            except (*self._kombu.channel_errors, KeyError) as exc:
                logger.warning("Queue %s cannot be declared, next try in %g s: %s", name, REDECLARE_INTERVAL, exc)
                self._vanished[name] = now + REDECLARE_INTERVAL
            else:
                del self._vanished[name]
                self._apply()
                logger.info("Queue %s is back, consuming.", name)
        return max(0.0, min(self._vanished.values(), default=now + REDECLARE_INTERVAL) - now)


def split_prefetch(prefetch: int) -> list[int]:
    """Shares of at most 65,535, one a channel, as even as can be."""
    channels = max(1, math.ceil(prefetch / MAX_WINDOW))
    share, rest = divmod(prefetch, channels)
    return [share + (number < rest) for number in range(channels)]


def split_windows(prefetch: int, queues: Sequence[QueueSpec], *, strict: bool) -> dict[str, int]:
    """Each queue's own window: by weight, at least 1; in strict order every queue may fill all slots."""
    if strict:
        return {queue.name: prefetch for queue in queues}
    total = sum(queue.weight for queue in queues) or 1
    return {queue.name: max(1, round(prefetch * queue.weight / total)) for queue in queues}
