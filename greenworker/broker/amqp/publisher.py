"""Publishing to RabbitMQ with pipelined confirms over a bounded set of connections.

A batch is written whole and then waited for once, so that a hundred replacements cost one round trip. What was not
confirmed when a connection broke is published again on the next one, what was confirmed is not. Every message is
``mandatory``: one that no queue took comes back and is an error, never a confirmed nothing.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from collections.abc import Iterable, Sequence

from amqp.exceptions import AMQPError, ChannelError

from greenworker.broker.amqp.declare import MissingQueueError
from greenworker.broker.amqp.link import Link
from greenworker.broker.connection import ConnectionOptions, LoginRefusedError
from greenworker.broker.links import Blockade, Links, not_published
from greenworker.broker.publisher import Outgoing, PublisherOptions, Replacement
from greenworker.errors import BrokerError, PublishError

logger = logging.getLogger(__name__)

RETRY_DELAY, RETRY_DELAY_MAX = 0.1, 2.0


class AmqpPublisher:
    """The Publisher of a failover list of RabbitMQ URLs. Any greenlet or thread may call it."""

    can_park = True

    def __init__(self, urls: Sequence[str], connecting: ConnectionOptions, options: PublisherOptions) -> None:
        self._urls = tuple(urls)
        self._blockade = Blockade()
        self._connecting = dataclasses.replace(
            connecting, on_blocked=self._blockade.begin, on_unblocked=self._blockade.end
        )
        self._timeout = options.timeout
        self._links: Links[Link] = Links(options.connections)

    @property
    def blocked(self) -> str | None:
        return self._blockade.reason

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
        self._links.close()

    def _try(self, messages: list[Outgoing], deadline: float) -> list[Outgoing]:
        """Publish over one connection; returns what is left to publish over another one.

        Raises PublishError if trying again is no use, or too late.
        """
        link = self._links.take(deadline)
        try:
            if link is None:
                link = Link(self._urls, self._connecting, deadline)
            link.publish(messages, deadline)
        except (OSError, AMQPError, BrokerError) as exc:
            unconfirmed = link.unconfirmed if link is not None else messages
            self._links.give_back(link, usable=False)
            self._raise_if_final(exc, deadline, unconfirmed)
            logger.debug("Publishing failed, trying again: %s", exc)
            return unconfirmed
        except BaseException:  # thrown into this greenlet in mid-frame: the connection cannot be used again
            self._links.give_back(link, usable=False)
            raise
        self._links.give_back(link, usable=True)
        self._blockade.end()  # it took these; the connection that was told otherwise may be gone
        return []

    def _raise_if_final(self, exc: Exception, deadline: float, unconfirmed: Sequence[Outgoing]) -> None:
        if isinstance(exc, PublishError) and exc.unpublished is not None:
            raise exc
        if isinstance(exc, (PublishError, ChannelError, MissingQueueError, LoginRefusedError)):
            raise not_published(str(exc), unconfirmed) from exc
        if time.monotonic() < deadline:
            return
        reason = "the broker did not confirm in time" if isinstance(exc, TimeoutError) else str(exc)
        if self.blocked is not None:
            reason = f"the broker takes no messages at the moment ({self.blocked})"
        raise not_published(reason, unconfirmed) from exc


def _ack(replacements: Iterable[Replacement]) -> None:
    for replacement in replacements:
        replacement.delivery.ack()
