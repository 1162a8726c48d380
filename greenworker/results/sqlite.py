"""Results in an SQLite file of their own: Celery's result document a row, a batch of the writer a transaction.

Two rules are kept by the one statement that writes: SUCCESS is final, and a document takes the place of the one before
it.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from greenworker.broker.sqlite.database import Database, Opening, Schema
from greenworker.broker.sqlite.files import RESULTS_FILE
from greenworker.errors import ResultsError, StateFolderError
from greenworker.protocol.results import SUCCESS, ResultMeta
from greenworker.results.base import ResultsOptions
from greenworker.results.record import Record, RefusedRecordError
from greenworker.results.written import WrittenResults, final, is_final

logger = logging.getLogger(__name__)

EXPIRY_INTERVAL, EXPIRY_CHUNK = 30.0, 500
FIRST_POLL, LONGEST_POLL = 0.005, 0.1  # seconds between looks for a result that somebody waits for

SCHEMA = Schema(
    application_id=0x67_77_6B_72,  # "gwkr"
    version=1,
    script=(
        """CREATE TABLE results (
            id INTEGER PRIMARY KEY,
            task_id TEXT NOT NULL UNIQUE,
            status TEXT NOT NULL,
            content_type TEXT NOT NULL,
            content_encoding TEXT NOT NULL,
            document NOT NULL,             -- TEXT where the encoding is utf-8, else BLOB
            expires_at REAL                -- Unix time
        )""",
        "CREATE INDEX results_expiring ON results (expires_at) WHERE expires_at IS NOT NULL",
    ),
)

_WRITE = f"""INSERT INTO results (task_id, status, content_type, content_encoding, document, expires_at)
    VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (task_id) DO UPDATE SET
    status = excluded.status, content_type = excluded.content_type, content_encoding = excluded.content_encoding,
    document = excluded.document, expires_at = excluded.expires_at
    WHERE status <> '{SUCCESS}' OR expires_at <= ?"""
_READ = """SELECT content_type, content_encoding, document FROM results
    WHERE task_id = ? AND (expires_at IS NULL OR expires_at > ?)"""


class SqliteResults(WrittenResults):
    """The ResultStore (results/base.py) of a file."""

    def __init__(self, path: Path, options: ResultsOptions | None = None) -> None:
        super().__init__(str(path), options or ResultsOptions())
        self._path = path
        self._database: Database | None = None

    def start(self) -> None:
        """Open the file, which ``options.create`` makes where missing. Raises StateFolderError or ResultsError."""
        if self._database is None:
            self._database = Database(self._path, self._opening())
            self.writer.start()

    def stop(self) -> None:
        if self._database is not None:
            self.writer.stop()
            self._database.close()
            self._database = None

    def get(self, task_id: str) -> ResultMeta | None:
        rows = self._opened().read(_READ, (task_id, time.time()))
        if not rows:
            return None
        content_type, content_encoding, document = rows[0]
        accept = (content_type,)  # nobody but greenworker writes to its file; the serializer may have been another one
        return self.decoded(task_id, document, content_type, content_encoding, accept)

    def wait(self, task_id: str, timeout: float) -> ResultMeta:
        deadline, poll = time.monotonic() + timeout, FIRST_POLL
        while not is_final(meta := self.get(task_id)):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(poll, left))
            poll = min(poll * 1.5, LONGEST_POLL)
        return final(meta, task_id, timeout)

    def forget(self, task_id: str) -> None:
        with self._opened().transaction() as tx:
            tx.execute("DELETE FROM results WHERE task_id = ?", (task_id,))

    def _opening(self) -> Opening:
        return Opening(
            purpose=RESULTS_FILE,
            schema=SCHEMA,
            unavailable=ResultsError,
            create=self.options.create,
            synchronous=self.options.synchronous,
            file_group=self.options.file_group,
        )

    def _opened(self) -> Database:
        database = self._database
        if database is None:
            raise ResultsError("results store: it is not started, or stopped already")
        if database.moved:
            logger.warning("%s was moved away or deleted: opening what is there now", self._path)
            self._database = database = Database(self._path, self._opening())  # others may still be reading the old one
        return database

    # --- writing, by the writer's thread ------------------------------------------------------------------------

    def write(self, batch: Sequence[Record]) -> Mapping[Record, Exception]:
        now, expires = time.time(), self.options.expires
        expires_at = None if expires is None else now + expires
        rows = [
            (
                record.task_id,
                record.meta.status,
                record.content_type,
                record.content_encoding,
                record.body.decode() if record.content_encoding == "utf-8" else record.body,
                expires_at,
                now,
            )
            for record in batch
        ]
        try:
            with self._opened().transaction() as tx:
                tx.executemany(_WRITE, rows)
        except ResultsError as exc:
            if len(batch) == 1 and isinstance(exc.__cause__, sqlite3.DataError):  # too large, for one
                return {batch[0]: RefusedRecordError(str(exc))}
            raise
        return {}

    def upkeep(self) -> float:
        return EXPIRY_INTERVAL if self._expire() < EXPIRY_CHUNK else 0.0

    def _expire(self) -> int:
        """Delete expired results, a chunk at most; returns how many."""
        try:
            now = time.time()
            if not self._opened().read("SELECT 1 FROM results WHERE expires_at <= ? LIMIT 1", (now,)):
                return 0
            with self._opened().transaction() as tx:
                return tx.execute(
                    "DELETE FROM results WHERE id IN (SELECT id FROM results WHERE expires_at <= ? LIMIT ?)",
                    (now, EXPIRY_CHUNK),
                ).rowcount
        except (ResultsError, StateFolderError) as exc:
            logger.warning("Expired results are not deleted, next try in %g s: %s", EXPIRY_INTERVAL, exc)
            return 0
