"""Queues, bindings and messages: every SQL statement of the embedded broker, but for sessions (sessions.py).

Methods that take ``tx`` run inside the caller's transaction (``store.transaction()``), so that callers compose them: a
replacement is one ``put`` and one ``remove`` in one transaction. Methods without it read, or open their own.

Priorities follow RabbitMQ: a higher number is delivered first. (kombu's Redis transport has it the other way round.)
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from greenworker.broker.sqlite.database import LOCK_TIMEOUT, Database, Opening, TransactionBlock
from greenworker.broker.sqlite.files import BROKER_FILE
from greenworker.broker.sqlite.routing import topic_matches
from greenworker.broker.sqlite.schema import QUEUE_SCHEMA
from greenworker.errors import BrokerError

CHUNK = 100  # rows that one transaction changes, where they may be many
CLAIM_BYTES = 16 * 1024 * 1024  # bodies taken in one batch, a single larger one excepted

Transaction = sqlite3.Connection


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How the queue file is opened. ``create``: the worker's right alone."""

    create: bool = False
    synchronous: str = "normal"
    file_group: str | None = None
    lock_timeout: float = LOCK_TIMEOUT


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as declared: dropped after ``expires_after`` seconds without a consumer; ``message_ttl`` in seconds.

    ``expires_unused``: the time counts from the declaration; if not, from the first consumer.
    """

    name: str
    expires_after: float | None = None
    message_ttl: float | None = None
    expires_unused: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """A message to be put. ``delay``: seconds until it is ready; ``time_to_live``: seconds after that, None: no end."""

    queue: str
    priority: int
    head: str
    body: str | bytes
    delay: float = 0.0
    time_to_live: float | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message handed out for the ``attempt``-th time."""

    id: int
    attempt: int
    queue: str
    head: str
    body: str | bytes

    @property
    def tag(self) -> str:
        """The delivery tag: valid for this one handing-out."""
        return f"{self.id}.{self.attempt}"


@dataclass(frozen=True, slots=True)
class QueueState:
    """What a look at one queue found. ``due_at``: Unix time of its next parked message."""

    name: str
    ready: bool
    due_at: float | None


def parse_tag(tag: str | int) -> tuple[int, int]:
    """The row and the attempt of a delivery tag."""
    row, _, attempt = str(tag).partition(".")
    return int(row), int(attempt)


class QueueStore:
    """The queue file. Any greenlet or thread may use it."""

    def __init__(self, path: Path, options: StoreOptions) -> None:
        """Open it. Raises StateFolderError or BrokerError."""
        self.path = path
        self._database = Database(
            path,
            Opening(
                purpose=BROKER_FILE,
                schema=QUEUE_SCHEMA,
                unavailable=BrokerError,
                create=options.create,
                synchronous=options.synchronous,
                file_group=options.file_group,
                lock_timeout=options.lock_timeout,
            ),
        )
        self.read = self._database.read

    def transaction(self, timeout: float | None = None) -> TransactionBlock:
        """A write transaction; ``timeout`` seconds to wait for the file's lock."""
        return self._database.transaction(timeout)

    @property
    def moved(self) -> bool:
        """Whether another file, or none, is at our path by now."""
        return self._database.moved

    def close(self) -> None:
        """Harmless twice."""
        self._database.close()

    # --- queues, exchanges, bindings ----------------------------------------------------------------------------

    def declare_queue(self, tx: Transaction, queue: Queue) -> None:
        """Make the queue if it is not there; its expiry starts anew."""
        counts = queue.expires_after is not None and queue.expires_unused
        tx.execute(
            "INSERT INTO queues (name, expires_after, expires_at, message_ttl)"
            " VALUES (:name, :after, iif(:counts, :now + :after, NULL), :ttl)"
            " ON CONFLICT (name) DO UPDATE SET expires_at = iif(:counts, :now + expires_after, expires_at)",
            {
                "name": queue.name,
                "after": queue.expires_after,
                "counts": counts,
                "now": time.time(),
                "ttl": queue.message_ttl,
            },
        )

    def has_queue(self, name: str) -> bool:
        return bool(self.read("SELECT 1 FROM queues WHERE name = ?", (name,)))

    def queue_names(self, tx: Transaction, limit: int = 20) -> list[str]:
        """Some of the queues there are, for messages to people."""
        return [name for (name,) in tx.execute("SELECT name FROM queues ORDER BY name LIMIT ?", (limit,))]

    def neglected(self, names: Sequence[str]) -> list[str]:
        """Of consumed queues, those that are gone or whose expiry wants to be put off. One cheap read."""
        return [
            name
            for (name,) in self.read(
                "SELECT value FROM json_each(?) LEFT JOIN queues ON name = value"
                " WHERE name IS NULL OR expires_at < ? + expires_after * 2 / 3",
                (json.dumps(list(names)), time.time()),
            )
        ]

    def keep_queues(self, tx: Transaction, names: Iterable[str]) -> list[str]:
        """Put off the expiry of consumed queues; returns those that are gone."""
        now = time.time()
        return [
            name
            for name in names
            if not tx.execute("UPDATE queues SET expires_at = ? + expires_after WHERE name = ?", (now, name)).rowcount
        ]

    def declare_exchange(self, tx: Transaction, name: str, exchange_type: str) -> None:
        tx.execute("INSERT OR IGNORE INTO exchanges VALUES (?, ?)", (name, exchange_type))

    def exchange_type(self, name: str) -> str | None:
        rows = self.read("SELECT type FROM exchanges WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else None

    def delete_exchange(self, tx: Transaction, name: str) -> None:
        tx.execute("DELETE FROM bindings WHERE exchange = ?", (name,))
        tx.execute("DELETE FROM exchanges WHERE name = ?", (name,))

    def bind(self, tx: Transaction, queue: str, exchange: str, routing_key: str) -> None:
        tx.execute("INSERT OR IGNORE INTO bindings VALUES (?, ?, ?)", (exchange, routing_key, queue))

    def unbind(self, tx: Transaction, queue: str, exchange: str, routing_key: str) -> None:
        tx.execute(
            "DELETE FROM bindings WHERE exchange = ? AND routing_key = ? AND queue = ?", (exchange, routing_key, queue)
        )

    def bindings(self, exchange: str) -> list[tuple[str, str]]:
        """``(routing_key, queue)`` of each binding of ``exchange``."""
        return self.read("SELECT routing_key, queue FROM bindings WHERE exchange = ?", (exchange,))

    def route(self, tx: Transaction, exchange: str, routing_key: str) -> list[str]:
        """The queues that a message reaches: those that exist and have not expired."""
        if not exchange:
            return [name for (name,) in tx.execute("SELECT name FROM queues WHERE name = ?", (routing_key,))]
        kind = next(iter(tx.execute("SELECT type FROM exchanges WHERE name = ?", (exchange,))), ("direct",))[0]
        narrowed = " AND b.routing_key = ?" if kind == "direct" else ""
        bound = tx.execute(
            "SELECT b.queue, b.routing_key FROM bindings b JOIN queues q ON q.name = b.queue"
            f" WHERE b.exchange = ? AND (q.expires_at IS NULL OR q.expires_at > ?){narrowed}",
            (exchange, time.time(), *((routing_key,) if narrowed else ())),
        )
        if kind == "topic":
            return list(dict.fromkeys(queue for queue, pattern in bound if topic_matches(pattern, routing_key)))
        return list(dict.fromkeys(queue for queue, _ in bound))

    def size(self, queue: str, at_most: int | None = None) -> int:
        """How many messages are ready, counted up to ``at_most``: counting a million takes tens of milliseconds."""
        return int(
            self.read(
                "SELECT count(*) FROM (SELECT 1 FROM messages WHERE queue = ? AND owner IS NULL AND visible_at IS NULL"
                " LIMIT ?)",
                (queue, -1 if at_most is None else at_most),
            )[0][0]
        )

    def purge(self, queue: str) -> int:
        """Delete all that is ready or parked in ``queue``, a chunk a transaction; returns how many."""
        deleted = 0
        while True:
            with self.transaction() as tx:
                chunk = self._delete_chunk(tx, queue, CHUNK)
            if not chunk:
                return deleted
            deleted += chunk
            time.sleep(0)  # others get a turn, at the file and in this process

    def delete_queue(self, queue: str) -> int:
        """Delete the queue, its bindings and messages, those that are handed out included; returns how many."""
        deleted = self.purge(queue)
        with self.transaction() as tx:
            while chunk := self._delete_chunk(tx, queue, CHUNK):
                deleted += chunk
            return deleted + self._drop(tx, queue)

    def _delete_chunk(self, tx: Transaction, queue: str, limit: int) -> int:
        deleted = 0
        for state in ("owner IS NULL AND visible_at IS NULL", "visible_at IS NOT NULL"):
            deleted += tx.execute(
                f"DELETE FROM messages WHERE id IN (SELECT id FROM messages WHERE queue = ? AND {state} LIMIT ?)",
                (queue, limit),
            ).rowcount
        return deleted

    def _drop(self, tx: Transaction, queue: str) -> int:
        # the owned are few (prefetched ones), so that a look through all of them is cheap
        owned = tx.execute("DELETE FROM messages WHERE owner IS NOT NULL AND queue = ?", (queue,)).rowcount
        tx.execute("DELETE FROM bindings WHERE queue = ?", (queue,))
        tx.execute("DELETE FROM queues WHERE name = ?", (queue,))
        return owned

    # --- messages in --------------------------------------------------------------------------------------------

    def put(self, tx: Transaction, rows: Sequence[Row]) -> None:
        """Add messages to queues that are known to exist."""
        now = time.time()
        lives: dict[str, float | None] = {}
        for row in rows:
            if row.queue not in lives:
                found = tx.execute("SELECT message_ttl FROM queues WHERE name = ?", (row.queue,)).fetchone()
                lives[row.queue] = found[0] if found else None
            delay = max(0.0, row.delay)
            life = min((ttl for ttl in (row.time_to_live, lives[row.queue]) if ttl is not None), default=None)
            inserted = tx.execute(
                "INSERT INTO messages (queue, priority, visible_at, expires_at) VALUES (?, ?, ?, ?)",
                (row.queue, row.priority, now + delay if delay else None, None if life is None else now + delay + life),
            )
            tx.execute("INSERT INTO contents VALUES (?, ?, ?)", (inserted.lastrowid, row.head, row.body))

    # --- messages out -------------------------------------------------------------------------------------------

    def look(self, queues: Sequence[str]) -> list[QueueState]:
        """Whether each queue has something ready, and when its next parked message is due. One cheap read."""
        return [
            QueueState(name, bool(ready), due_at)
            for name, ready, due_at in self.read(
                "SELECT value,"
                " EXISTS (SELECT 1 FROM messages WHERE queue = value AND owner IS NULL AND visible_at IS NULL),"
                " (SELECT min(visible_at) FROM messages WHERE queue = value AND visible_at IS NOT NULL)"
                " FROM json_each(?)",
                (json.dumps(list(queues)),),
            )
        ]

    def promote(self, tx: Transaction, queue: str) -> int:
        """Make parked messages ready whose time has come, a chunk at most; returns how many."""
        return tx.execute(
            "UPDATE messages SET visible_at = NULL WHERE id IN"
            " (SELECT id FROM messages WHERE queue = ? AND visible_at IS NOT NULL AND visible_at <= ?"
            " ORDER BY visible_at LIMIT ?)",
            (queue, time.time(), CHUNK),
        ).rowcount

    def claim(self, tx: Transaction, queue: str, session: int, limit: int) -> list[Claimed]:
        """Hand ``limit`` ready messages at most to ``session``, best priority first, then oldest first."""
        claimed = list(self._next(tx, queue, limit))
        self._change(
            tx, "UPDATE messages SET owner = ?, attempt = attempt + 1", (session,), [row.id for row in claimed]
        )
        return claimed

    def take(self, tx: Transaction, queue: str, limit: int) -> list[Claimed]:
        """The same for consumers that never ack: taken is gone."""
        claimed = list(self._next(tx, queue, limit))
        self._change(tx, "DELETE FROM messages", (), [row.id for row in claimed])
        return claimed

    def _next(self, tx: Transaction, queue: str, limit: int) -> Iterator[Claimed]:
        now, size, expired = time.time(), 0, []
        rows = tx.execute(
            "SELECT m.id, m.attempt, m.expires_at, c.head, c.body FROM messages m JOIN contents c ON c.id = m.id"
            " WHERE m.queue = ? AND m.owner IS NULL AND m.visible_at IS NULL ORDER BY m.priority DESC, m.id LIMIT ?",
            (queue, limit),
        )
        for id, attempt, expires_at, head, body in rows:
            if expires_at is not None and expires_at <= now:
                expired.append(id)
                continue
            yield Claimed(id, attempt + 1, queue, head, body)
            size += len(body)
            if size > CLAIM_BYTES:
                break
        rows.close()
        self._change(tx, "DELETE FROM messages", (), expired)

    @staticmethod
    def _change(tx: Transaction, statement: str, parameters: Sequence[int], ids: Sequence[int]) -> int:
        if not ids:
            return 0
        return tx.execute(f"{statement} WHERE id IN ({','.join(map(str, ids))})", parameters).rowcount

    # --- settlements --------------------------------------------------------------------------------------------

    def remove(self, tx: Transaction, tags: Sequence[str | int]) -> int:
        """Ack: delete what is still on its ``attempt``; returns how many were. A stale tag does nothing."""
        return self._settle(tx, "DELETE FROM messages", tags)

    def give_back(self, tx: Transaction, tags: Sequence[str | int]) -> int:
        """Requeue: ready again, at its old place. A stale tag does nothing."""
        return self._settle(tx, "UPDATE messages SET owner = NULL", tags)

    def _settle(self, tx: Transaction, statement: str, tags: Sequence[str | int]) -> int:
        # one text for all: SQLite compiles a statement once, a text with the ids in it each time
        return tx.executemany(f"{statement} WHERE id = ? AND attempt = ?", map(parse_tag, tags)).rowcount

    # --- upkeep -------------------------------------------------------------------------------------------------

    def has_expired(self) -> bool:
        """Whether ``expire`` has something to do. One cheap read."""
        now = time.time()
        return bool(
            self.read(
                "SELECT EXISTS (SELECT 1 FROM queues WHERE expires_at <= ?) OR EXISTS"
                " (SELECT 1 FROM messages WHERE expires_at IS NOT NULL AND owner IS NULL AND expires_at <= ?)",
                (now, now),
            )[0][0]
        )

    def expire(self, tx: Transaction) -> None:
        """Delete expired messages, and expired queues with what is in them, a chunk each."""
        now = time.time()
        tx.execute(
            "DELETE FROM messages WHERE id IN (SELECT id FROM messages WHERE expires_at IS NOT NULL AND owner IS NULL"
            " AND expires_at <= ? LIMIT ?)",
            (now, CHUNK),
        )
        for (name,) in tx.execute("SELECT name FROM queues WHERE expires_at <= ? LIMIT 10", (now,)).fetchall():
            if not self._delete_chunk(tx, name, CHUNK):
                self._drop(tx, name)
