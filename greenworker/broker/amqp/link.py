"""One producer connection to RabbitMQ in confirm mode: publish a batch, wait once, know what was not confirmed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import amqp

from greenworker.broker.amqp.connection import Connection
from greenworker.broker.amqp.declare import declare
from greenworker.broker.amqp.delay import DelayTopology, delayed_routing_key
from greenworker.broker.connection import ConnectionOptions, open_first
from greenworker.broker.delivery import Envelope
from greenworker.broker.publisher import Outgoing
from greenworker.errors import PublishError


class Link:
    """Used by one caller at a time."""

    def __init__(self, urls: Sequence[str], connecting: ConnectionOptions, deadline: float) -> None:
        """Connect to the first broker that answers, by the monotonic ``deadline``. Raises BrokerError."""
        # No heartbeat: between two publishes nobody would send ours, and the broker would hang up.
        options = dataclasses.replace(connecting, heartbeat=0)
        self._connection: Connection = open_first(urls, options, deadline).connection
        self._sequence = 0
        self._pending: dict[int, Outgoing] = {}  # by confirm sequence number
        self._returned: set[tuple[str, str]] = set()  # exchange and routing key that no queue took
        self._nacked: list[Outgoing] = []
        try:
            self._channel = self._connection.channel()
            self._channel.confirm_select()
        except BaseException:
            self._connection.leave()
            raise
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_nack)
        self._channel.events["basic_return"].add(self._on_return)
        self._declared: set[str] = set()
        self._delays = DelayTopology(self._connection)

    @property
    def unconfirmed(self) -> list[Outgoing]:
        """What the last ``publish`` has no answer for."""
        return list(self._pending.values())

    def publish(self, messages: Sequence[Outgoing], deadline: float) -> None:
        """Publish and wait for all confirms, until the monotonic ``deadline``.

        A queue that was declared here once and is gone is declared again. Raises PublishError for a message that no
        queue took or that was refused, TimeoutError when the deadline is over, py-amqp's errors and OSError.
        """
        self._expect(messages)  # before anything can fail: what is not in there is taken for published
        self._nacked.clear()
        self._connection.reply_timeout = _left(deadline)
        self._connection.sock.settimeout(_left(deadline))  # for writing: nobody else uses this socket now
        self._send(deadline)
        if self._returned:
            self._declared.clear()
            self._expect([message for message in messages if self._route(message) in self._returned])
            self._send(deadline)
        if self._returned:
            exchange, routing_key = min(self._returned)
            refused = [message for message in messages if self._route(message) in self._returned]
            raise _refusal(
                f"no queue takes what is published to exchange {exchange!r} with routing key {routing_key!r}: "
                "declare the queue, or bind it",
                refused + self._nacked,
            )
        if self._nacked:
            raise _refusal("the broker refused a message (basic.nack): is its queue full?", self._nacked)

    def drop(self) -> None:
        """Hang up, without waiting for anybody."""
        self._connection.leave()

    def _expect(self, messages: Sequence[Outgoing]) -> None:
        self._returned.clear()
        self._pending = dict(enumerate(messages, self._sequence + 1))
        self._sequence += len(messages)

    def _send(self, deadline: float) -> None:
        messages = list(self._pending.values())
        for message in messages:  # before the first is written: a declaration may fail
            if message.queue is not None and message.queue.name not in self._declared:
                declare(self._connection, message.queue)
                self._declared.add(message.queue.name)
        for message in messages:
            exchange, routing_key = self._route(message)
            self._channel.basic_publish(
                _stock_message(message.envelope), exchange, routing_key, mandatory=message.mandatory
            )
        while self._pending:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._connection.drain_events(timeout=left)

    def _route(self, message: Outgoing) -> tuple[str, str]:
        if message.delay < 1:
            return message.exchange, message.routing_key
        if message.queue is None and message.exchange:
            raise PublishError("a message to an exchange cannot be parked: only its queue's name says where it ends")
        queue = message.routing_key if message.queue is None else message.queue.name
        return self._delays.exchange_for(message.delay, queue), delayed_routing_key(message.delay, queue)

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._answered(tag, multiple)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._nacked += self._answered(tag, multiple)

    def _answered(self, tag: int, multiple: bool) -> list[Outgoing]:
        """The messages that a confirm is about; they are pending no more."""
        sequences = [sequence for sequence in self._pending if sequence <= tag] if multiple else [tag]
        return [self._pending.pop(sequence) for sequence in sequences if sequence in self._pending]

    def _on_return(self, exc: Exception, exchange: str, routing_key: str, message: Any) -> None:
        self._returned.add((exchange, routing_key))


def _refusal(reason: str, refused: Sequence[Outgoing]) -> PublishError:
    error = PublishError(reason)
    error.unpublished = list(refused)
    return error


def _left(deadline: float) -> float:
    return max(0.1, deadline - time.monotonic())


def _stock_message(envelope: Envelope) -> amqp.Message:
    body, content_encoding = envelope.body, envelope.content_encoding
    if isinstance(body, str):
        content_encoding = content_encoding or "utf-8"
        body = body.encode(content_encoding)
    properties = {"delivery_mode": 2, **envelope.properties}
    return amqp.Message(
        body,
        content_type=envelope.content_type,
        content_encoding=content_encoding,
        application_headers=dict(envelope.headers),
        **properties,
    )
