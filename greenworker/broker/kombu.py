"""The plain path for every other kombu transport: kombu's own consumer and producer behind our two contracts.

Nothing is tuned here. A wait for messages cannot be ended from outside, so it is short while settlements may come; what
a transport cannot do (confirm, park, wake) is not made up for.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kombu.entity import Exchange, Queue
from kombu.messaging import Consumer, Producer

from greenworker.broker.connection import ConnectionLostError, ConnectionOptions, open_connection, open_first
from greenworker.broker.delivery import Delivery, Envelope, QueueSpec, Settlement
from greenworker.broker.publisher import Outgoing, PublisherOptions, Replacement
from greenworker.errors import BrokerError, PublishError
from greenworker.green.base import LoopWaiter

logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.05  # how long a settlement, or a message on a transport that polls, may wait
RETRY_DELAY = 0.2


def kombu_queue(queue: QueueSpec) -> Any:
    """``queue`` as kombu declares it."""
    exchange = Exchange(queue.exchange, type=queue.exchange_type, durable=True)  # type: ignore[no-untyped-call]
    return Queue(  # type: ignore[no-untyped-call]
        queue.name,
        exchange=exchange,
        routing_key=queue.routing_key or queue.name,
        durable=queue.durable,
        max_priority=queue.max_priority,
        queue_arguments=dict(queue.arguments) or None,
        no_declare=not queue.declare,
    )


class KombuSource:
    """The Source (broker/source.py) over kombu's Consumer, one for each queue, on one channel."""

    asynchronous = False

    def __init__(self, connection: Any, on_delivery: Callable[[Delivery], None], waiter: LoopWaiter) -> None:
        self.on_delivery = on_delivery
        self.closed = False
        self._connection = connection
        self._waiter = waiter
        self._channel = connection.channel()
        self._consumers: dict[str, Any] = {}
        self._outbox: deque[tuple[int | str, Settlement]] = deque()  # filled from anywhere, emptied by the loop
        self._unsettled: dict[int | str, Any] = {}  # delivery tag -> kombu's message; the loop's
        self._wanted_prefetch = self._prefetch = 0
        self._stopped = False
        polling = getattr(connection.transport, "polling_interval", None)
        if polling is not None and polling > POLL_INTERVAL:
            connection.transport.polling_interval = POLL_INTERVAL

    @classmethod
    def connect(
        cls, url: str, connecting: ConnectionOptions, on_delivery: Callable[[Delivery], None], waiter: LoopWaiter
    ) -> KombuSource:
        """Open the connection, too. Raises BrokerError."""
        return cls(open_connection(url, connecting), on_delivery, waiter)

    @property
    def unsettled(self) -> int:
        return len(self._unsettled)

    def settle(self, delivery: Delivery, settlement: Settlement) -> None:
        if not self.closed:
            self._outbox.append((delivery.tag, settlement))

    def wake(self) -> None:
        """Nothing can: the wait is short instead."""

    def start(self, queues: Sequence[QueueSpec], prefetch: int) -> None:
        with self._telling_loss():
            self._wanted_prefetch = max(1, prefetch)
            self._apply_prefetch()
            for queue in queues:
                self._consume(queue)

    def add_queue(self, queue: QueueSpec) -> None:
        with self._telling_loss():
            self._consume(queue)

    def cancel_queue(self, name: str) -> None:
        with self._telling_loss():
            consumer = self._consumers.pop(name, None)
            if consumer is not None:
                consumer.cancel()

    def set_prefetch(self, count: int) -> None:
        self._wanted_prefetch = max(1, count)

    def pump(self, timeout: float) -> None:
        with self._telling_loss():
            self._write()
            self._apply_prefetch()
            within = min(timeout, POLL_INTERVAL) if self._unsettled else timeout
            try:
                self._connection.drain_events(timeout=max(within, 0.001))  # 0 means for ever to some transports
            except TimeoutError:
                pass  # nothing came
            self._write()

    def flush(self) -> None:
        with self._telling_loss():
            self._write()

    def register(self, hub: Any, wake: Callable[[], None]) -> None:
        raise NotImplementedError("a plain kombu transport is pumped, it does not live on a hub")

    def turn(self) -> None:
        self.flush()

    def unregister(self, hub: Any) -> None:
        """It is on none."""

    def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        with self._telling_loss():
            for name in list(self._consumers):
                self._consumers.pop(name).cancel()

    def close(self) -> None:
        errors: tuple[type[Exception], ...] = (*self._errors(), BrokerError)
        if not self.closed:
            try:
                self.stop()
                self._write()
                for message in self._unsettled.values():
                    message.requeue()  # not every transport does it when its channel is closed
                self._unsettled.clear()
                self._channel.close()
            except errors as exc:
                logger.debug("Closing the broker connection: %s", exc)
        self.closed = True
        self._connection.release()
        self._waiter.close()

    def _consume(self, queue: QueueSpec) -> None:
        if queue.name in self._consumers:
            return
        consumer = Consumer(  # type: ignore[no-untyped-call]
            self._channel,
            queues=[kombu_queue(queue)],
            on_message=lambda message, name=queue.name: self._on_message(name, message),
            accept=None,
        )
        consumer.consume()  # type: ignore[no-untyped-call]
        self._consumers[queue.name] = consumer

    def _on_message(self, queue: str, message: Any) -> None:
        self._unsettled[message.delivery_tag] = message
        if self._stopped:
            self._outbox.append((message.delivery_tag, Settlement.REQUEUE))
            return
        info = message.delivery_info or {}
        delivery = Delivery(
            tag=message.delivery_tag,
            queue=queue,
            envelope=Envelope(
                message.body,
                message.content_type,
                message.content_encoding,
                message.headers or {},
                message.properties or {},
            ),
            exchange=info.get("exchange") or "",
            routing_key=info.get("routing_key") or queue,
            redelivered=bool(info.get("redelivered")),
            source=self,
        )
        self.on_delivery(delivery)

    def _write(self) -> None:
        for _ in range(len(self._outbox)):
            tag, settlement = self._outbox.popleft()
            message = self._unsettled.pop(tag, None)
            if message is None:
                continue
            if settlement is Settlement.ACK:
                message.ack()
            else:
                message.requeue()

    def _apply_prefetch(self) -> None:
        if self._wanted_prefetch != self._prefetch:
            self._prefetch = self._wanted_prefetch
            self._channel.basic_qos(0, self._prefetch, False)

    def _errors(self) -> tuple[type[Exception], ...]:
        return (OSError, *self._connection.connection_errors, *self._connection.channel_errors)

    @contextlib.contextmanager
    def _telling_loss(self) -> Iterator[None]:
        if self.closed:
            raise ConnectionLostError("the broker connection is closed")
        try:
            yield
        except self._errors() as exc:
            self.closed = True
            raise ConnectionLostError(f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__) from exc


class KombuPublisher:
    """The Publisher of any other transport: one connection, one caller at a time, confirmed as far as it confirms."""

    can_park = False
    blocked: str | None = None  # it never is

    def __init__(self, urls: Sequence[str], connecting: ConnectionOptions, options: PublisherOptions) -> None:
        self._urls = tuple(urls)
        self._connecting = connecting
        self._timeout = options.timeout
        self._lock = threading.Lock()  # guards the two below
        self._connection: Any = None
        self._declared: set[str] = set()

    def publish(self, messages: Sequence[Outgoing], timeout: float | None = None) -> None:
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        left = deque(messages)
        while left:
            if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise PublishError("not published: other callers kept the producer connection busy")
            try:
                self._publish(left, deadline)
            except BaseException as exc:  # a limit thrown in mid-message spoils the connection like any fault of it
                errors = self._errors()
                self._drop()
                if not isinstance(exc, errors):
                    raise
                if time.monotonic() >= deadline:
                    raise PublishError(f"not published: {exc}") from exc
                logger.debug("Publishing failed, trying again: %s", exc)
            finally:
                self._lock.release()
            if left:
                time.sleep(min(RETRY_DELAY, max(0.0, deadline - time.monotonic())))

    def replace(self, replacements: Sequence[Replacement], timeout: float | None = None) -> None:
        self.publish([replacement.outgoing for replacement in replacements], timeout)
        for replacement in replacements:
            replacement.delivery.ack()

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _publish(self, left: deque[Outgoing], deadline: float) -> None:
        """Publish from the left; what is published is gone from it."""
        if self._connection is None:
            self._connection = open_first(self._urls, self._connecting, deadline)
        with Producer(self._connection.channel()) as producer:  # type: ignore[no-untyped-call]
            while left:
                message = left[0]
                if message.queue is not None and message.queue.name not in self._declared:
                    kombu_queue(message.queue).bind(producer.channel).declare()
                    self._declared.add(message.queue.name)
                envelope = message.envelope
                producer.publish(
                    envelope.body,
                    routing_key=message.routing_key,
                    exchange=message.exchange,
                    content_type=envelope.content_type or "application/data",
                    content_encoding=envelope.content_encoding or "binary",
                    headers=dict(envelope.headers),
                    **{key: value for key, value in envelope.properties.items() if key in _PROPERTIES},
                )
                left.popleft()

    def _errors(self) -> tuple[type[BaseException], ...]:
        if self._connection is None:
            return (OSError, BrokerError)
        return (OSError, BrokerError, *self._connection.connection_errors, *self._connection.channel_errors)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._declared.clear()
        if connection is not None:
            connection.collect()


_PROPERTIES = frozenset({"correlation_id", "reply_to", "priority", "delivery_mode", "expiration", "message_id", "type"})
