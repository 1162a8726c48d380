"""Sessions: the lease under which a consumer has messages, and what becomes of those of a consumer that died.

A session is to the queue file what a connection is to RabbitMQ: while it lives, what it took is its own; when it ends,
or is not renewed within ``lease_timeout``, all of that is ready again. Leases count on CLOCK_MONOTONIC, which every
process of the machine shares and which a correction of the wall clock cannot move; it starts anew at a boot, so a
session remembers under which boot it began.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

from greenworker.broker.sqlite.store import CHUNK, QueueStore, Transaction

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@functools.cache
def boot_id() -> str:
    """What tells this boot of the machine from any other; empty where the kernel does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


class Session:
    """One consumer's lease. Used by its own loop alone."""

    def __init__(
        self, store: QueueStore, lease_timeout: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin a session whose lease lasts ``lease_timeout`` seconds from each renewal."""
        self._store = store
        self._lease_timeout = lease_timeout
        self._monotonic = monotonic
        with store.transaction() as tx:
            self.id = self._insert(tx)
        self.renew_at = self._next_renewal()

    @property
    def renew_due(self) -> bool:
        """Whether a third of the lease is over."""
        return self._monotonic() >= self.renew_at

    def renew(self, tx: Transaction) -> bool:
        """Prolong the lease. False if it had run out: a new session is begun, what the old one had is lost to us."""
        renewed = tx.execute(
            "UPDATE sessions SET lease_until = ? WHERE id = ? AND lease_until > 0",
            (self._monotonic() + self._lease_timeout, self.id),
        ).rowcount
        self.renew_at = self._next_renewal()
        if renewed:
            return True
        self.id = self._insert(tx)
        return False

    def end(self) -> int:
        """Give back all that this session has; returns how many messages that were."""
        released = 0
        while True:
            with self._store.transaction() as tx:
                chunk = _release(tx, self.id)
                if not chunk:
                    tx.execute("DELETE FROM sessions WHERE id = ?", (self.id,))
                    return released
            released += chunk

    def _insert(self, tx: Transaction) -> int:
        lease_until = self._monotonic() + self._lease_timeout
        row = tx.execute("INSERT INTO sessions (boot, lease_until) VALUES (?, ?)", (boot_id(), lease_until))
        assert row.lastrowid is not None
        return row.lastrowid

    def _next_renewal(self) -> float:
        return self._monotonic() + self._lease_timeout / 3


def has_dead_sessions(store: QueueStore, monotonic: Callable[[], float] = time.monotonic) -> bool:
    """Whether ``release_dead_sessions`` has something to do. One cheap read."""
    return bool(
        store.read("SELECT 1 FROM sessions WHERE boot <> ? OR lease_until < ? LIMIT 1", (boot_id(), monotonic()))
    )


def release_dead_sessions(tx: Transaction, monotonic: Callable[[], float] = time.monotonic) -> int:
    """Make ready again what dead consumers had, a chunk at most; returns how many messages that were."""
    dead = tx.execute("SELECT id FROM sessions WHERE boot <> ? OR lease_until < ?", (boot_id(), monotonic())).fetchall()
    released = 0
    for (session,) in dead:
        # first the mark, for good: one that wakes up after this must not renew a lease that is half handed on
        tx.execute("UPDATE sessions SET lease_until = 0 WHERE id = ?", (session,))
        chunk = _release(tx, session)
        released += chunk
        if not chunk:
            tx.execute("DELETE FROM sessions WHERE id = ?", (session,))
        if released >= CHUNK:
            break
    return released


def _release(tx: Transaction, session: int) -> int:
    return tx.execute(
        "UPDATE messages SET owner = NULL WHERE id IN (SELECT id FROM messages WHERE owner = ? LIMIT ?)",
        (session, CHUNK),
    ).rowcount
