"""Publishing to RabbitMQ with pipelined confirms over a bounded set of connections.

A batch is written whole and then waited for once, so that a hundred replacements cost one round trip. What was not
confirmed when a connection broke is published again on the next one, what was confirmed is not. Every message is
``mandatory``: one that no queue took comes back and is an error, never a confirmed nothing.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import amqp
import kombu
from amqp.exceptions import AMQPError, ChannelError

from greenworker.broker.amqp.declare import declare
from greenworker.broker.amqp.delay import DelayTopology, delayed_routing_key
from greenworker.broker.connection import ConnectionOptions, open_connection
from greenworker.broker.delivery import Envelope
from greenworker.broker.publisher import Outgoing, PublisherOptions, Replacement
from greenworker.errors import BrokerError, PublishError

logger = logging.getLogger(__name__)

RETRY_DELAY, RETRY_DELAY_MAX = 0.1, 2.0


class _Link:
    """One connection in confirm mode, used by one caller at a time."""

    def __init__(self, connection: kombu.Connection) -> None:
        self._connection: amqp.Connection = connection.connection
        self._kombu = connection
        self._channel = self._connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_nack)
        self._channel.events["basic_return"].add(self._on_return)
        self._sequence = 0
        self._pending: dict[int, Outgoing] = {}
        self._refused: list[str] = []
        self._declared: set[str] = set()
        self._delays = DelayTopology(self._connection)
        self.used_at = time.monotonic()

    def publish(self, messages: Sequence[Outgoing], deadline: float) -> None:
        """Publish and wait for all confirms. Raises PublishError for a message that no queue took or that was refused."""
        self._pending.clear()
        self._refused.clear()
        for message in messages:
            self._declare(message)
            self._write(message)
        while self._pending:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._connection.drain_events(timeout=left)
        if self._refused:
            raise PublishError("; ".join(sorted(set(self._refused))))

    def unconfirmed(self) -> list[Outgoing]:
        """What the last ``publish`` has no answer for."""
        return list(self._pending.values())

    def forget_declared(self) -> None:
        """A queue that was declared here may be gone: declare anew."""
        self._declared.clear()

    def close(self) -> None:
        try:
            self._kombu.release()
        except (OSError, AMQPError) as exc:
            logger.debug("Closing a producer connection: %s", exc)

    def _declare(self, message: Outgoing) -> None:
        if message.queue is not None and message.queue.name not in self._declared:
            declare(self._connection, message.queue)
            self._declared.add(message.queue.name)

    def _write(self, message: Outgoing) -> None:
        exchange, routing_key = message.exchange, message.routing_key
        if message.delay >= 1:
            exchange = self._delays.exchange_for(message.delay, message.routing_key)
            routing_key = delayed_routing_key(message.delay, message.routing_key)
        self._sequence += 1
        self._pending[self._sequence] = message
        self._channel.basic_publish(_stock_message(message.envelope), exchange, routing_key, mandatory=True)

    def _on_ack(self, tag: int, multiple: bool) -> None:
        if not multiple:
            self._pending.pop(tag, None)
            return
        for sequence in [sequence for sequence in self._pending if sequence <= tag]:
            del self._pending[sequence]

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._refused.append("the broker refused it (nack): is the queue full?")
        self._on_ack(tag, multiple)

    def _on_return(self, exc: Exception, exchange: str, routing_key: str, message: Any) -> None:
        self._refused.append(f"no queue takes exchange {exchange!r}, routing key {routing_key!r}")


class AmqpPublisher:
    """The Publisher of a failover list of RabbitMQ URLs."""

    can_park = True

    def __init__(self, urls: Sequence[str], connecting: ConnectionOptions, options: PublisherOptions) -> None:
        self._urls = list(urls)
        self._connecting = connecting
        self._timeout = options.timeout
        self._idle: queue.LifoQueue[_Link | None] = queue.LifoQueue()  # one place a connection, None: not opened yet
        for _ in range(options.connections):
            self._idle.put(None)
        self._places = options.connections

    def publish(self, messages: Sequence[Outgoing], timeout: float | None = None) -> None:
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        left = list(messages)
        delay = RETRY_DELAY
        while left:
            with self._place(deadline) as place:
                try:
                    link = place.link()
                    link.publish(left, deadline)
                except ChannelError as exc:
                    place.drop()
                    raise PublishError(f"not published: {exc}") from exc
                except PublishError:
                    place.link().forget_declared()
                    raise
                except (OSError, AMQPError, BrokerError) as exc:
                    left = place.drop() or left
                    self._check(deadline, exc)
                else:
                    return
            time.sleep(min(delay * random.uniform(0.5, 1.0), max(0.0, deadline - time.monotonic())))
            delay = min(delay * 2, RETRY_DELAY_MAX)

    def replace(self, replacements: Sequence[Replacement], timeout: float | None = None) -> None:
        self.publish([replacement.outgoing for replacement in replacements], timeout)
        for replacement in replacements:
            replacement.delivery.ack()

    def close(self) -> None:
        for _ in range(self._places):
            try:
                link = self._idle.get(timeout=1.0)
            except queue.Empty:
                return  # a caller still publishes: its connection goes with the process
            if link is not None:
                link.close()

    @contextlib.contextmanager
    def _place(self, deadline: float) -> Iterator[_Place]:
        try:
            link = self._idle.get(timeout=max(0.001, deadline - time.monotonic()))
        except queue.Empty:
            raise PublishError(
                f"not published: all {self._places} producer connections are busy ([broker] publish_connections)"
            ) from None
        place = _Place(self, link)
        try:
            yield place
        finally:
            self._idle.put(place.give_back())

    def connect(self) -> _Link:
        """A new link to the first broker of the list that answers. Raises BrokerError with the last one's reason."""
        for number, url in enumerate(self._urls):
            try:
                return _Link(open_connection(url, self._connecting))
            except BrokerError:
                if number == len(self._urls) - 1:
                    raise
        raise BrokerError("no broker URL is set")

    @staticmethod
    def _check(deadline: float, exc: Exception) -> None:
        if time.monotonic() >= deadline:
            reason = "the broker did not confirm in time" if isinstance(exc, TimeoutError) else str(exc)
            raise PublishError(f"not published: {reason}") from exc
        logger.debug("Publishing failed, trying again: %s", exc)


class _Place:
    """One of the publisher's connections while a caller has it."""

    __slots__ = ("_link", "_publisher")

    def __init__(self, publisher: AmqpPublisher, link: _Link | None) -> None:
        self._publisher = publisher
        self._link = link

    def link(self) -> _Link:
        if self._link is None:
            self._link = self._publisher.connect()
        return self._link

    def drop(self) -> list[Outgoing]:
        """Give the connection up; returns what it had not confirmed."""
        link, self._link = self._link, None
        if link is None:
            return []
        link.close()
        return link.unconfirmed()

    def give_back(self) -> _Link | None:
        return self._link


def _stock_message(envelope: Envelope) -> amqp.Message:
    properties = {key: value for key, value in envelope.properties.items() if value is not None and key != "delivery_info"}
    properties.setdefault("delivery_mode", 2)
    return amqp.Message(
        envelope.body,
        content_type=envelope.content_type,
        content_encoding=envelope.content_encoding,
        application_headers=dict(envelope.headers),
        **properties,
    )
