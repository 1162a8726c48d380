"""The embedded broker as a kombu transport, for everything but the task path: remote control, events, plain consumers.

kombu keeps exchanges and bindings of a virtual transport in the memory of one process; here they are rows, so that
processes share them. What kombu calls restoring is here a lease: rejecting with requeue, closing, or dying gives the
rows back as they are. Transport options: ``create`` (make a missing file; off, so that a producer never does),
``lease_timeout``, ``synchronous``, ``file_group``.
"""

from __future__ import annotations

import dataclasses
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty
from typing import Any
from uuid import uuid4

from amqp.protocol import queue_declare_ok_t
from kombu.exceptions import ChannelError
from kombu.transport import virtual
from kombu.transport.base import to_rabbitmq_queue_arguments

from greenworker.broker.sqlite.bell import Ringer
from greenworker.broker.sqlite.content import pack_head, priority_of, time_to_live_of
from greenworker.broker.sqlite.declare import queue_of
from greenworker.broker.sqlite.files import BROKER_FILE, cannot_open, wake_folder
from greenworker.broker.sqlite.store import CHUNK, Claimed, Queue, QueueStore, Row, StoreOptions, Transaction
from greenworker.broker.sqlite.upkeep import Upkeep
from greenworker.broker.virtual import decode_message
from greenworker.errors import BrokerError, StateFolderError

logger = logging.getLogger(__name__)

# kombu's classes are half annotated, so that a checker would ask for what kombu's own subclasses do not keep either
_QoS: Any = virtual.QoS
_Channel: Any = virtual.Channel
_Transport: Any = virtual.Transport

LEASE_TIMEOUT = 60.0
LONGEST_WAIT = 3600.0  # seconds; the upkeep ends every wait far earlier
ABANDONED_AFTER = 60.0  # seconds that an exclusive or auto-delete queue outlives its consumer
BATCH = 20  # messages claimed ahead of their delivery, where the prefetch allows
COUNTED_AT_DECLARE = 10_000  # a declaration tells a queue's size, up to this: counting a million would stop the process


class QoS(_QoS):  # type: ignore[misc]
    """Prefetch as kombu counts it; acks and rejects go to the rows."""

    def ack(self, delivery_tag: str) -> None:
        self.channel.settle(delivery_tag, QueueStore.remove)
        super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if not requeue:
            self.ack(delivery_tag)
            return
        self.channel.settle(delivery_tag, QueueStore.give_back)
        super().ack(delivery_tag)
        self.channel.connection.ring()

    def restore_unacked(self) -> list[Any]:
        """Give back all that is not settled; kombu calls this when a channel closes."""
        self._flush()
        tags = list(self._delivered)
        self._delivered.clear()
        self.channel.give_back(tags)
        return []


class Channel(_Channel):  # type: ignore[misc]
    """A channel over the connection's queue file."""

    QoS = QoS
    supports_fanout = True
    body_encoding = None  # bodies are stored as they are, text or bytes
    max_priority = 255
    connection: Transport

    def __init__(self, connection: Transport, **kwargs: Any) -> None:
        self._no_ack: set[str] = set()
        self._declared: dict[str, Queue] = {}
        self._claimed: dict[str, tuple[int, deque[Claimed]]] = {}  # queue -> session, what is not delivered yet
        super().__init__(connection, **kwargs)

    @property
    def store(self) -> QueueStore:
        return self.connection.store

    # --- publishing ---------------------------------------------------------------------------------------------

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> None:
        """Put ``message`` on every queue that the exchange routes it to, in one transaction."""
        self._inplace_augment_message(message, exchange, routing_key)
        head, body, properties = pack_head(message), message["body"], message["properties"]
        priority, time_to_live = priority_of(properties), time_to_live_of(properties)
        with self.store.transaction() as tx:
            queues = self.store.route(tx, exchange or "", routing_key)
            self.store.put(tx, [Row(queue, priority, head, body, time_to_live=time_to_live) for queue in queues])
        if queues:
            self.connection.ring()
        elif not exchange:
            logger.warning("A message is dropped: the embedded broker has no queue %r", routing_key)

    # --- consuming ----------------------------------------------------------------------------------------------

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        if no_ack:
            self._no_ack.add(queue)
        else:
            self._no_ack.discard(queue)
        with self.store.transaction() as tx:
            self.store.keep_queues(tx, [queue])
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    @property
    def consumed(self) -> list[str]:
        """The queues that this channel consumes."""
        return list(self._active_queues)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        upkeep = self.connection.upkeep()
        session, rows = self._claimed.get(queue) or (0, None)
        if not rows or session != upkeep.session.id:  # of a lost session: others may have them by now
            rows = self._claim(queue, upkeep)
            self._claimed[queue] = (upkeep.session.id, rows)
        if not rows:
            raise Empty
        return _message(rows.popleft())

    def _claim(self, queue: str, upkeep: Upkeep) -> deque[Claimed]:
        """As many of the queue's messages as the prefetch has room for, a few at most, in one transaction."""
        state = self.store.look([queue])[0]
        due = state.due_at is not None and state.due_at <= time.time()
        if not state.ready and not due:
            return deque()
        room = self.qos.can_consume_max_estimate()
        waiting = sum(len(rows) for _, rows in self._claimed.values())
        count = BATCH if room is None else max(1, min(BATCH, room - waiting))
        with self.store.transaction() as tx:
            upkeep.keep_lease(tx)
            if due:
                self.store.promote(tx, queue)
            if queue in self._no_ack:
                return deque(self.store.take(tx, queue, count))
            return deque(self.store.claim(tx, queue, upkeep.session.id, count))

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """One message, or None. Nothing is claimed ahead for it."""
        upkeep = self.connection.upkeep()
        with self.store.transaction() as tx:
            upkeep.keep_lease(tx)
            self.store.promote(tx, queue)
            rows = self.store.take(tx, queue, 1) if no_ack else self.store.claim(tx, queue, upkeep.session.id, 1)
        if not rows:
            return None
        message = self.Message(_message(rows[0]), channel=self)
        if not no_ack:
            self.qos.append(message, message.delivery_tag)
        return message

    def basic_cancel(self, consumer_tag: str) -> None:
        queue = self._tag_to_queue.get(consumer_tag)
        super().basic_cancel(consumer_tag)
        if queue is not None and queue not in self._active_queues:
            self._give_back_claimed(queue)

    def close(self) -> None:
        if not self.closed:
            for queue in list(self._claimed):
                self._give_back_claimed(queue)
        super().close()

    def _give_back_claimed(self, queue: str) -> None:
        """What was claimed ahead and not delivered goes back; of a no_ack consumer it goes with the consumer."""
        session, rows = self._claimed.pop(queue, (0, None))
        if rows and queue not in self._no_ack and session == self.connection.upkeep().session.id:
            self.give_back([row.tag for row in rows])

    def settle(self, tag: str, how: Callable[[QueueStore, Transaction, Sequence[str]], int]) -> None:
        with self.store.transaction() as tx:
            if not how(self.store, tx, [tag]):
                logger.warning("A message was settled after its lease had run out: others may have it too")

    def give_back(self, tags: Sequence[str]) -> None:
        for start in range(0, len(tags), CHUNK):
            with self.store.transaction() as tx:
                self.store.give_back(tx, tags[start : start + CHUNK])
        if tags:
            self.connection.ring()

    # --- declarations -------------------------------------------------------------------------------------------

    def prepare_queue_arguments(self, arguments: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        return to_rabbitmq_queue_arguments(arguments or {}, **kwargs)

    def exchange_declare(
        self, exchange: str | None = None, type: str = "direct", *args: Any, passive: bool = False, **kwargs: Any
    ) -> None:
        name = exchange or f"amq.{type or 'direct'}"
        if passive:
            if self.store.exchange_type(name) is None:
                raise ChannelError(f"NOT_FOUND - no exchange {name!r}", (50, 10), "Channel.exchange_declare", "404")
            return
        super().exchange_declare(exchange, type, *args, **kwargs)
        with self.store.transaction() as tx:
            self.store.declare_exchange(tx, name, type or "direct")

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        self.state.exchanges.pop(exchange, None)
        with self.store.transaction() as tx:
            self.store.delete_exchange(tx, exchange)

    def queue_bind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", arguments: Any = None, **kwargs: Any
    ) -> None:
        name, key = exchange or "amq.direct", routing_key or ""
        self.state.binding_declare(queue, name, key, arguments)
        with self.store.transaction() as tx:
            self.store.bind(tx, queue, name, key)

    def queue_unbind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", arguments: Any = None, **kwargs: Any
    ) -> None:
        name, key = exchange or "amq.direct", routing_key or ""
        self.state.binding_delete(queue, name, key)
        with self.store.transaction() as tx:
            self.store.unbind(tx, queue, name, key)

    def redeclare(self, tx: Transaction, queue: str) -> None:
        """Make a consumed queue anew, with the bindings that this process gave it."""
        if queue not in self._declared:
            return  # declared by another process, with what arguments we do not know
        self.store.declare_queue(tx, self._declared[queue])
        for binding in self.state.queue_bindings(queue):
            self.store.bind(tx, queue, binding.exchange, binding.routing_key)

    def queue_declare(self, queue: str | None = None, passive: bool = False, **kwargs: Any) -> queue_declare_ok_t:
        """As kombu's; the count of messages is exact for a passive one alone, else up to 10,000."""
        name = queue or f"amq.gen-{uuid4()}"
        if not passive:
            self._new_queue(name, **kwargs)
        elif not self.store.has_queue(name):
            raise ChannelError(f"NOT_FOUND - no queue {name!r}", (50, 10), "Channel.queue_declare", "404")
        return queue_declare_ok_t(name, self.store.size(name, None if passive else COUNTED_AT_DECLARE), 0)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> None:
        if if_empty and self.store.size(queue, 1):
            return
        self._declared.pop(queue, None)
        self.state.queue_bindings_delete(queue)
        self.store.delete_queue(queue)

    def list_bindings(self) -> Iterator[tuple[str, str, str]]:
        """``(queue, exchange, routing_key)`` of all bindings."""
        return iter(self.store.read("SELECT queue, exchange, routing_key FROM bindings"))

    def get_table(self, exchange: str) -> list[tuple[str, None, str]]:
        return [(routing_key, None, queue) for routing_key, queue in self.store.bindings(exchange)]

    def typeof(self, exchange: str, default: str = "direct") -> Any:
        return self.exchange_types[self.store.exchange_type(exchange) or default]

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        declared = queue_of(queue, kwargs.get("arguments") or {})
        exclusive = bool(kwargs.get("exclusive"))
        if declared.expires_after is None and (exclusive or kwargs.get("auto_delete")):
            declared = dataclasses.replace(declared, expires_after=ABANDONED_AFTER, expires_unused=exclusive)
        self._declared[queue] = declared
        with self.store.transaction() as tx:
            self.store.declare_queue(tx, declared)

    def _size(self, queue: str) -> int:
        return self.store.size(queue)

    def _purge(self, queue: str) -> int:
        return self.store.purge(queue)

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        with self.store.transaction() as tx:
            row = Row(queue, priority_of(message["properties"]), pack_head(message), message["body"])
            self.store.put(tx, [row])
        self.connection.ring()


class Transport(_Transport):  # type: ignore[misc]
    """One process' connection to a queue file."""

    Channel = Channel
    driver_type = driver_name = "sqlite"
    default_port = None
    implements = _Transport.implements.extend(exchange_type=frozenset(["direct", "topic", "fanout"]))
    connection_errors = (*_Transport.connection_errors, BrokerError)
    recoverable_connection_errors = connection_errors

    store: QueueStore
    _ringer: Ringer
    _upkeep: Upkeep | None = None

    def driver_version(self) -> str:
        return sqlite3.sqlite_version

    def establish_connection(self) -> Transport:
        """Open the file. Raises StateFolderError, which tells how to mend it, or BrokerError."""
        options = self.client.transport_options
        path = Path("/" + (self.client.virtual_host or "").lstrip("/"))
        self.store = QueueStore(
            path,
            StoreOptions(
                create=bool(options.get("create", False)),
                synchronous=options.get("synchronous", "normal"),
                file_group=options.get("file_group"),
            ),
        )
        try:
            self._ringer = Ringer(wake_folder(path))
        except OSError as exc:
            self.store.close()
            raise StateFolderError(cannot_open(wake_folder(path), BROKER_FILE, str(exc.strerror))) from exc
        super().establish_connection()
        return self

    def close_connection(self, connection: Transport) -> None:
        try:
            super().close_connection(connection)
            if self._upkeep is not None:
                self._upkeep.close()
        finally:
            self._upkeep = None
            self._ringer.close()
            self.store.close()

    def upkeep(self) -> Upkeep:
        """This connection's session and bell, begun when it first consumes: a producer needs neither."""
        if self._upkeep is None:
            timeout = float(self.client.transport_options.get("lease_timeout", LEASE_TIMEOUT))
            self._upkeep = Upkeep(self.store, timeout, self._redeclare)
        return self._upkeep

    def ring(self) -> None:
        """Wake all other consumers of the file."""
        self._ringer.ring(but=None if self._upkeep is None else self._upkeep.bell.name)

    def drain_events(self, connection: Transport, timeout: float | None = None) -> None:
        """Deliver one message. Raises socket.timeout after ``timeout`` seconds without one."""
        deadline = None if timeout is None else time.monotonic() + timeout
        upkeep = self.upkeep()
        while True:
            consumed = [queue for channel in self.channels for queue in channel.consumed]
            upkeep.run(consumed)
            try:
                self.cycle.get(self._deliver, timeout=timeout)
            except Empty:
                pass
            else:
                return
            left = LONGEST_WAIT if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            upkeep.bell.wait(upkeep.wait_limit(min(left, self._until_due(consumed))))

    def _until_due(self, consumed: Sequence[str]) -> float:
        """Seconds until the next parked message of the consumed queues."""
        due = min((state.due_at for state in self.store.look(consumed) if state.due_at is not None), default=None)
        return LONGEST_WAIT if due is None else max(0.0, due - time.time())

    def _redeclare(self, tx: Transaction, queues: Sequence[str]) -> None:
        for channel in self.channels:
            for queue in queues:
                channel.redeclare(tx, queue)


def _message(row: Claimed) -> dict[str, Any]:
    """kombu's virtual message of a row."""
    message = decode_message(row.head)
    properties = message["properties"]
    properties["delivery_tag"] = row.tag
    properties.setdefault("delivery_info", {})["redelivered"] = row.attempt > 1
    message["body"] = row.body
    return message
