"""Publishing to RabbitMQ with pipelined confirms over a bounded set of connections.

A batch is written whole and then waited for once, so that a hundred replacements cost one round trip. What was not
confirmed when a connection broke is published again on the next one, what was confirmed is not. Every message is
``mandatory``: one that no queue took comes back and is an error, never a confirmed nothing.

The rule this file keeps: a connection is used again only after everything on it went well. Whatever ends a publish in
the middle, a thrown time limit included, may have left half a frame on the wire.
"""

from __future__ import annotations

import dataclasses
import logging
import queue
import random
import time
from collections.abc import Iterable, Sequence

from amqp.exceptions import AMQPError, ChannelError

from greenworker.broker.amqp.declare import MissingQueueError
from greenworker.broker.amqp.link import Link
from greenworker.broker.connection import ConnectionOptions, LoginRefusedError
from greenworker.broker.publisher import Outgoing, PublisherOptions, Replacement
from greenworker.errors import BrokerError, PublishError

logger = logging.getLogger(__name__)

RETRY_DELAY, RETRY_DELAY_MAX = 0.1, 2.0
IDLE_LIMIT = 60.0  # seconds: firewalls forget silent connections after minutes, and a first write would tell nobody
CLOSE_TIMEOUT = 1.0


class AmqpPublisher:
    """The Publisher of a failover list of RabbitMQ URLs. Any greenlet or thread may call it."""

    can_park = True

    def __init__(self, urls: Sequence[str], connecting: ConnectionOptions, options: PublisherOptions) -> None:
        self._urls = tuple(urls)
        self._connecting = dataclasses.replace(connecting, on_blocked=self._on_blocked, on_unblocked=self._on_unblocked)
        self.blocked: str | None = None
        self._timeout = options.timeout
        self._places = options.connections
        self._idle: queue.LifoQueue[Link | None] = queue.LifoQueue()  # one entry a connection, None: not opened
        self._closed = False
        for _ in range(options.connections):
            self._idle.put(None)

    def publish(self, messages: Sequence[Outgoing], timeout: float | None = None) -> None:
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        left = list(messages)
        delay = RETRY_DELAY
        while left:
            try:
                left = self._try(left, deadline)
            except PublishError as exc:
                if exc.unpublished is None:
                    exc.unpublished = left
                raise
            if left:
                time.sleep(min(delay * random.uniform(0.5, 1.0), max(0.0, deadline - time.monotonic())))
                delay = min(delay * 2, RETRY_DELAY_MAX)

    def replace(self, replacements: Sequence[Replacement], timeout: float | None = None) -> None:
        try:
            self.publish([replacement.outgoing for replacement in replacements], timeout)
        except PublishError as exc:  # what was confirmed is done with, and must not be published once more
            _ack(each for each in replacements if each.outgoing not in (exc.unpublished or ()))
            raise
        _ack(replacements)

    def close(self) -> None:
        self._closed = True
        deadline = time.monotonic() + CLOSE_TIMEOUT
        for _ in range(self._places):
            try:
                link = self._idle.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return  # a caller still publishes; it hangs up itself when it is done
            if link is not None:
                link.drop()

    def _try(self, messages: list[Outgoing], deadline: float) -> list[Outgoing]:
        """Publish over one connection; returns what is left to publish over another one.

        Raises PublishError if trying again is no use, or too late.
        """
        link = self._take(deadline)
        try:
            if link is None:
                link = Link(self._urls, self._connecting, deadline)
            link.publish(messages, deadline)
        except (OSError, AMQPError, BrokerError) as exc:
            unconfirmed = link.unconfirmed if link is not None else messages
            self._give_back(link, usable=False)
            self._raise_if_final(exc, deadline, unconfirmed)
            logger.debug("Publishing failed, trying again: %s", exc)
            return unconfirmed
        except BaseException:  # thrown into this greenlet in mid-frame: the connection cannot be used again
            self._give_back(link, usable=False)
            raise
        self._give_back(link, usable=True)
        self._on_unblocked()  # it took these; the connection that was told otherwise may be gone
        return []

    def _take(self, deadline: float) -> Link | None:
        if self._closed:
            raise PublishError("not published: the publisher is closed")
        try:
            link = self._idle.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise PublishError(
                f"not published: all {self._places} producer connections are busy ([broker] publish_connections)"
            ) from None
        if link is not None and time.monotonic() - link.used_at > IDLE_LIMIT:
            link.drop()
            return None
        return link

    def _give_back(self, link: Link | None, *, usable: bool) -> None:
        if link is not None and (self._closed or not usable):
            link.drop()
            link = None
        self._idle.put(link)

    def _on_blocked(self, reason: str) -> None:
        if self.blocked is None:
            logger.warning("The broker takes no messages for now (%s): publishing waits", reason)
        self.blocked = reason

    def _on_unblocked(self) -> None:
        if self.blocked is not None:
            logger.warning("The broker takes messages again")
        self.blocked = None

    def _raise_if_final(self, exc: Exception, deadline: float, unconfirmed: Sequence[Outgoing]) -> None:
        if isinstance(exc, PublishError) and exc.unpublished is not None:
            raise exc
        if isinstance(exc, (PublishError, ChannelError, MissingQueueError, LoginRefusedError)):
            raise _failure(str(exc), unconfirmed) from exc
        if time.monotonic() < deadline:
            return
        reason = "the broker did not confirm in time" if isinstance(exc, TimeoutError) else str(exc)
        if self.blocked is not None:
            reason = f"the broker takes no messages at the moment ({self.blocked})"
        raise _failure(reason, unconfirmed) from exc


def _failure(reason: str, unconfirmed: Sequence[Outgoing]) -> PublishError:
    error = PublishError(f"not published: {reason}")
    error.unpublished = unconfirmed
    return error


def _ack(replacements: Iterable[Replacement]) -> None:
    for replacement in replacements:
        replacement.delivery.ack()
