"""What every consumer does for the queue file about once a second: renew its lease, keep its queues, clear up.

There is no server to do this, so everyone who consumes does; each job looks with a cheap read first, and the write
transaction that follows does at most a chunk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from greenworker.broker.sqlite.bell import Bell, Ringer
from greenworker.broker.sqlite.files import wake_folder
from greenworker.broker.sqlite.sessions import Session, has_dead_sessions, release_dead_sessions
from greenworker.broker.sqlite.store import QueueStore, Transaction
from greenworker.errors import BrokerError

logger = logging.getLogger(__name__)

UPKEEP_INTERVAL = 1.0  # seconds; also how long a lost ring can go unnoticed


class Upkeep:
    """A consumer's session, its bell, and its share of the upkeep. Used by its own loop alone."""

    def __init__(
        self, store: QueueStore, lease_timeout: float, redeclare: Callable[[Transaction, Sequence[str]], None]
    ) -> None:
        """``redeclare`` makes consumed queues anew that are gone. Raises OSError, StateFolderError or BrokerError."""
        folder: Path = wake_folder(store.path)
        self._store = store
        self._redeclare = redeclare
        self._interval = min(UPKEEP_INTERVAL, lease_timeout / 4)  # with short leases, the dead are noticed sooner, too
        self._next_at = 0.0
        self.bell = Bell(folder)
        try:
            self.ringer = Ringer(folder)
            self.session = Session(store, lease_timeout)
        except BaseException:
            self.close_bells()
            raise

    def ring(self) -> None:
        """Wake every other consumer."""
        self.ringer.ring(but=self.bell.name)

    def wait_limit(self, wanted: float) -> float:
        """``wanted`` seconds, or fewer if the upkeep is due earlier."""
        return max(0.0, min(wanted, self._next_at - time.monotonic()))

    def keep_lease(self, tx: Transaction) -> None:
        """Renew the lease if it is time. Called first in every transaction that claims.

        Under the file's lock nobody can give our session up in between, however long the process stood still before it
        got here.
        """
        if self.session.renew_due and not self.session.renew(tx):
            logger.warning(
                "The lease on this consumer's messages ran out: the process stood still for longer than [broker] "
                "lease_timeout. What it has not finished may run a second time, here or elsewhere."
            )

    def run(self, consumed: Sequence[str]) -> None:
        """Do what is due."""
        now = time.monotonic()
        if now < self._next_at:
            return
        self._next_at = now + self._interval
        if self._store.moved:
            raise BrokerError(f"embedded broker: {self._store.path} was moved away or deleted while it was in use")
        if self.session.renew_due:
            with self._store.transaction() as tx:
                self.keep_lease(tx)
        neglected = self._store.neglected(consumed)
        if neglected:
            with self._store.transaction() as tx:
                gone = self._store.keep_queues(tx, neglected)
                if gone:
                    logger.warning("Consumed queues are gone from the file, making them again: %s", ", ".join(gone))
                    self._redeclare(tx, gone)
        if has_dead_sessions(self._store):
            self._release_dead()
        if self._store.has_expired():
            with self._store.transaction() as tx:
                self._store.expire(tx)
            self._next_at = 0.0  # there may be another chunk

    def _release_dead(self) -> None:
        with self._store.transaction() as tx:
            released = release_dead_sessions(tx)
        self._next_at = 0.0  # there may be another chunk
        if released:
            logger.warning("%d messages of a consumer that died are ready again", released)
            self.ring()

    def close(self) -> None:
        """End the session, which gives its messages back, and take the bell down."""
        try:
            if self.session.end():
                self.ring()
        finally:
            self.close_bells()

    def close_bells(self) -> None:
        """Take the bell down; the lease runs out by itself. Harmless twice."""
        self.bell.close()
        if hasattr(self, "ringer"):
            self.ringer.close()
