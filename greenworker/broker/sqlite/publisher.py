"""Publishing into the queue file: one transaction, then a ring. Committed means on the queue."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from greenworker.broker.delivery import Settlement
from greenworker.broker.publisher import Outgoing, PublisherOptions, Replacement
from greenworker.broker.sqlite.bell import Ringer
from greenworker.broker.sqlite.content import pack_envelope, priority_of, time_to_live_of
from greenworker.broker.sqlite.declare import declare
from greenworker.broker.sqlite.files import wake_folder
from greenworker.broker.sqlite.source import SqliteSource
from greenworker.broker.sqlite.store import CHUNK, QueueStore, Row, StoreOptions, Transaction
from greenworker.errors import BrokerError, PublishError, StateFolderError

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class SqlitePublisher:
    """The Publisher (broker/publisher.py) of the queue file. It never creates the file; it opens it when first used."""

    can_park = True
    blocked: str | None = None  # it never is

    def __init__(self, path: Path, options: PublisherOptions | None = None) -> None:
        self._path = path
        self._options = options or PublisherOptions()
        self._opening = threading.Lock()
        self._opened: tuple[QueueStore, Ringer] | None = None

    def publish(self, messages: Sequence[Outgoing], timeout: float | None = None) -> None:
        """As Publisher.publish. Raises StateFolderError if the file cannot be opened, EncodeError for bad headers."""
        for chunk in _chunks([(message, _head(message)) for message in messages]):
            with self._transaction(timeout) as (store, tx):
                routes = _Routes(store, tx)
                store.put(tx, [row for message, head in chunk for row in routes.rows(message, head)])

    def replace(self, replacements: Sequence[Replacement], timeout: float | None = None) -> None:
        """As Publisher.replace, in one transaction: the delivery's row goes as the new one comes.

        A delivery that is no longer ours (its lease ran out and another has it) is not replaced and stays unsettled:
        whoever has it now decides what becomes of it.
        """
        ours = [each for each in replacements if self._is_ours(each)]
        others = [each for each in replacements if not self._is_ours(each)]
        for chunk in _chunks([(each, _head(each.outgoing)) for each in ours]):
            with self._transaction(timeout) as (store, tx):
                routes = _Routes(store, tx)
                replaced = []
                for each, head in chunk:
                    early = each.delivery.settled is Settlement.ACK  # acked when its task started
                    if early or (each.delivery.settled is None and store.remove(tx, [each.delivery.tag])):
                        store.put(tx, routes.rows(each.outgoing, head))
                        replaced.append(each.delivery)
                    else:
                        logger.warning("A message of %s is not replaced: it is no longer ours", each.delivery.queue)
            for delivery in replaced:
                assert isinstance(delivery.source, SqliteSource)
                delivery.source.forget(delivery)
        if others:
            self.publish([each.outgoing for each in others], timeout)
            for each in others:
                each.delivery.ack()

    def close(self) -> None:
        """Close the file. Harmless twice; a later ``publish`` opens it again."""
        with self._opening:
            self._shut()

    def _shut(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened[1].close()
            opened[0].close()

    def _is_ours(self, replacement: Replacement) -> bool:
        source = replacement.delivery.source
        return isinstance(source, SqliteSource) and source.path == self._path

    def _open(self) -> tuple[QueueStore, Ringer]:
        with self._opening:
            if self._opened is not None and self._opened[0].moved:
                logger.warning("%s was replaced by another file: opening that one", self._path)
                self._shut()
            if self._opened is None:
                store = QueueStore(self._path, StoreOptions(synchronous=self._options.synchronous))
                try:
                    self._opened = store, Ringer(wake_folder(self._path))
                except OSError as exc:
                    store.close()
                    raise StateFolderError(
                        f"embedded broker: the folder of bells {wake_folder(self._path)} cannot be used: {exc}; "
                        f"the worker makes it, with the group of [broker] file_group"
                    ) from exc
            return self._opened

    @contextlib.contextmanager
    def _transaction(self, timeout: float | None) -> Iterator[tuple[QueueStore, Transaction]]:
        """One transaction, and a ring after it. Faults of an open file are PublishErrors."""
        store, ringer = self._open()
        try:
            with store.transaction(self._options.timeout if timeout is None else timeout) as tx:
                yield store, tx
        except PublishError:
            raise
        except (BrokerError, StateFolderError) as exc:
            raise PublishError(f"not published: {exc}") from exc
        ringer.ring()


class _Routes:
    """Where the messages of one transaction go; each target is looked up once."""

    def __init__(self, store: QueueStore, tx: Transaction) -> None:
        self._store = store
        self._tx = tx
        self._found: dict[tuple[str, str, str | None], list[str]] = {}

    def rows(self, message: Outgoing, head: str) -> list[Row]:
        """The rows that ``message`` becomes. Raises PublishError if no queue takes it."""
        target = (message.exchange, message.routing_key, message.queue.name if message.queue else None)
        queues = self._found.get(target)
        if queues is None:
            queues = self._found[target] = self._look_up(message)
        properties, body = message.envelope.properties, message.envelope.body
        priority, time_to_live = priority_of(properties), time_to_live_of(properties)
        return [Row(queue, priority, head, body, message.delay, time_to_live) for queue in queues]

    def _look_up(self, message: Outgoing) -> list[str]:
        store, tx = self._store, self._tx
        if message.queue is not None and not store.route(tx, "", message.queue.name):
            declare(store, tx, message.queue)
        queues = store.route(tx, message.exchange, message.routing_key)
        if queues:
            return queues
        known = ", ".join(store.queue_names(tx)) or "none yet"
        raise PublishError(
            f"not published: no queue takes exchange {message.exchange!r}, routing key {message.routing_key!r}; "
            f"the embedded broker's queues are: {known}"
        )


def _head(message: Outgoing) -> str:
    return pack_envelope(message.envelope, message.exchange, message.routing_key)


def _chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
