"""Publishing to Redis: a batch is one script, and when Redis has replied it is on its queues.

A reply that is lost leaves it open whether the script was run. So the script notes under an id of the batch what came
of it, and the same batch sent again only reads that note; it is deleted with the next batch over that connection, or
expires. A replacement is the same script: it takes the delivery out of ``unacked`` and puts the new message on its
queue, or does neither.

Messages to a fanout exchange are broadcast, as kombu does it; who does not listen at that moment does not get them.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from redis.exceptions import ReadOnlyError, ResponseError

from greenworker.broker.connection import ConnectionOptions, LoginRefusedError, open_first
from greenworker.broker.delivery import Delivery, Settlement
from greenworker.broker.links import Blockade, Links, not_published
from greenworker.broker.publisher import Outgoing, PublisherOptions, Replacement
from greenworker.broker.redis.keys import (
    PARKED,
    UNACKED,
    UNACKED_INDEX,
    bindings_key,
    fanout_channel,
    published_key,
    queue_key,
)
from greenworker.broker.redis.link import (
    LINK_ERRORS,
    TEMPORARY,
    Command,
    Link,
    checked,
    code_of,
    meaning_of,
    open_link,
)
from greenworker.broker.redis.message import pack, priority_of
from greenworker.broker.redis.routing import FANOUT, bind_call, matching_queues
from greenworker.broker.redis.scripts import PUBLISH, Argument
from greenworker.broker.redis.source import RedisSource
from greenworker.errors import BrokerError, PublishError

logger = logging.getLogger(__name__)

CHUNK = 500  # messages in one script
RETRY_DELAY, RETRY_DELAY_MAX = 0.1, 2.0
SHORTEST_TRY = 0.1  # seconds for one try where the deadline is over already
NOTE_TIMEOUT = 60  # seconds that the note on a batch outlives the time allowed to it


@dataclass(frozen=True, slots=True, eq=False)
class _Parcel:
    """A message, packed, and the delivery that it replaces, if any."""

    outgoing: Outgoing
    text: str
    delivery: Delivery | None = None


@dataclass(slots=True)
class _Batch:
    """Parcels that share a script, and the id under which Redis notes what came of it."""

    parcels: Sequence[_Parcel]
    deadline: float  # monotonic
    note: str = field(default_factory=lambda: published_key(uuid4().hex))

    @property
    def timeout(self) -> float:
        """How long one try may take: a batch can be sent again, so a silent connection does not get all of the time."""
        left = self.deadline - time.monotonic()
        return max(SHORTEST_TRY, min(left, max(1.0, left / 2)))


class _Producer:
    """A link, and the note that nobody needs any more because the reply came."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.answered_note: str | None = None

    def drop(self) -> None:
        self.link.drop()


class RedisPublisher:
    """The Publisher (broker/publisher.py) of a failover list of Redis URLs. Any greenlet or thread may call it."""

    can_park = True

    def __init__(self, urls: Sequence[str], connecting: ConnectionOptions, options: PublisherOptions) -> None:
        self._urls = tuple(urls)
        self._connecting = connecting
        self._timeout = options.timeout
        self._links: Links[_Producer] = Links(options.connections)
        self._blockade = Blockade()

    @property
    def blocked(self) -> str | None:
        return self._blockade.reason

    def publish(self, messages: Sequence[Outgoing], timeout: float | None = None) -> None:
        self._publish([_Parcel(message, _pack(message)) for message in messages], timeout)

    def replace(self, replacements: Sequence[Replacement], timeout: float | None = None) -> None:
        """As Publisher.replace, in one script.

        A delivery that is no longer ours (its lease ran out and another has it) is not replaced and stays unsettled:
        whoever has it now decides what becomes of it.
        """
        self._publish([_Parcel(each.outgoing, _pack(each.outgoing), each.delivery) for each in replacements], timeout)

    def close(self) -> None:
        self._links.close()

    def _publish(self, parcels: Sequence[_Parcel], timeout: float | None) -> None:
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        for start in range(0, len(parcels), CHUNK):
            chunk = parcels[start : start + CHUNK]
            try:
                result = self._deliver(_Batch(chunk, deadline))
            except PublishError as exc:
                exc.unpublished = [parcel.outgoing for parcel in parcels[start:]]
                raise
            for parcel, done in zip(chunk, result, strict=True):
                _settle(parcel, done)

    def _deliver(self, batch: _Batch) -> list[bool]:
        """Publish a batch over as many connections as it takes; returns for each message whether it was."""
        for delay in _delays():
            try:
                result = self._try(batch)
            except LINK_ERRORS as exc:
                self._raise_if_late(batch, exc)
                logger.debug("Publishing failed, trying again: %s", exc)
            except PublishError:
                raise
            except BrokerError as exc:
                if isinstance(exc, LoginRefusedError):
                    raise not_published(str(exc), ()) from exc
                self._raise_if_late(batch, exc)
            except ResponseError as exc:
                if code_of(exc) not in TEMPORARY:
                    raise not_published(meaning_of(exc), ()) from exc
                self._blockade.begin(meaning_of(exc))
                self._raise_if_late(batch, exc)
            else:
                self._blockade.end()
                return result
            time.sleep(min(delay, max(0.0, batch.deadline - time.monotonic())))
        raise AssertionError("delays never end")

    def _try(self, batch: _Batch) -> list[bool]:
        """Publish a batch over one connection. Raises LINK_ERRORS, ResponseError, BrokerError."""
        producer = self._links.take(batch.deadline)
        try:
            if producer is None:
                producer = _Producer(open_first(self._urls, self._connecting, batch.deadline, open_link))
            result = _send(producer, batch)
        except ResponseError as exc:
            # Refused, but the connection is as good as before; unless it leads to what is no master any more.
            self._links.give_back(producer, usable=not isinstance(exc, ReadOnlyError))
            raise
        except BaseException:  # broken, or something was thrown into this greenlet in mid-message
            self._links.give_back(producer, usable=False)
            raise
        self._links.give_back(producer, usable=True)
        return result

    def _raise_if_late(self, batch: _Batch, exc: Exception) -> None:
        if time.monotonic() < batch.deadline:
            return
        reason = str(exc) if isinstance(exc, BrokerError) else f"Redis did not confirm in time: {exc}"
        if self.blocked is not None:
            reason = f"the broker takes no messages at the moment ({self.blocked})"
        raise not_published(reason, ()) from exc


def _pack(message: Outgoing) -> str:
    return pack(message.envelope, message.exchange, message.routing_key)


def _settle(parcel: _Parcel, done: bool) -> None:
    """Tell the delivery that was replaced."""
    delivery = parcel.delivery
    if delivery is None:
        return
    if not done:
        logger.warning("A message of %s is not replaced: it is no longer ours", delivery.queue)
    elif isinstance(delivery.source, RedisSource):
        delivery.source.forget(delivery)
    else:
        delivery.ack()


def _delays() -> Iterator[float]:
    delay = RETRY_DELAY
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(delay * 2, RETRY_DELAY_MAX)


# --- one batch over one connection


def _send(producer: _Producer, batch: _Batch) -> list[bool]:
    routes = _Routes(producer.link, batch.timeout)
    lists: list[str] = []
    arguments: list[Argument] = []
    broadcasts: list[Command] = []
    for parcel in batch.parcels:
        message = parcel.outgoing
        priority = priority_of(message.envelope.properties)
        if _is_fanout(message):
            channel = fanout_channel(producer.link.database, message.exchange, message.routing_key)
            broadcasts.append(("PUBLISH", channel, parcel.text))
            targets = []
        else:
            targets = [queue_key(queue, priority) for queue in routes.queues(message)]
        lists += targets
        held, tag = _replaced(parcel.delivery)
        arguments += [held, tag, int(message.delay * 1000), _expires(message), parcel.text, len(targets)]
    keys = [batch.note, PARKED, UNACKED, UNACKED_INDEX, *lists]
    expires = math.ceil(max(0.0, batch.deadline - time.monotonic())) + NOTE_TIMEOUT
    clean_up: list[Command] = [] if producer.answered_note is None else [("DEL", producer.answered_note)]
    replies = checked(producer.link.call([PUBLISH(keys, expires, *arguments), *clean_up, *broadcasts], batch.timeout))
    producer.answered_note = batch.note
    return [digit == ord("1") for digit in replies[0]]


def _replaced(delivery: Delivery | None) -> tuple[str, str]:
    """The held key and the tag of a delivery of ours; '' where the script has nothing to take out of ``unacked``."""
    if delivery is None or not isinstance(delivery.source, RedisSource) or delivery.settled is Settlement.ACK:
        return "", ""  # acked when its task started, or not Redis'
    return delivery.source.held_key, str(delivery.tag)


def _is_fanout(message: Outgoing) -> bool:
    return bool(message.exchange) and message.queue is not None and message.queue.exchange_type == FANOUT


def _expires(message: Outgoing) -> int:
    """After how many milliseconds of silence its list expires, 0: never; RabbitMQ's ``x-expires``, as kombu has it."""
    arguments = message.queue.arguments if message.queue is not None else {}
    return int(arguments.get("x-expires") or 0)


class _Routes:
    """Where the messages of one batch go; each exchange is looked up once."""

    def __init__(self, link: Link, timeout: float) -> None:
        self._link = link
        self._timeout = timeout
        self._found: dict[tuple[str, str, str | None], list[str]] = {}

    def queues(self, message: Outgoing) -> list[str]:
        """Raises PublishError if no queue takes ``message``."""
        if not message.exchange:
            return [message.routing_key]
        target = (message.exchange, message.routing_key, message.queue.name if message.queue else None)
        if target not in self._found:
            self._found[target] = self._look_up(message)
        return self._found[target]

    def _look_up(self, message: Outgoing) -> list[str]:
        call = bind_call(message.queue) if message.queue is not None else None
        if call is not None:
            self._link.ask(call, self._timeout)
        bindings = self._link.ask(("SMEMBERS", bindings_key(message.exchange)), self._timeout)
        queues = matching_queues(bindings, message.routing_key)
        if not queues:
            raise PublishError(
                f"not published: no queue takes exchange {message.exchange!r}, routing key {message.routing_key!r}: "
                "declare the queue, or bind it"
            )
        return queues
