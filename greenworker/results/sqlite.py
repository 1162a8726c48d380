"""Results in an SQLite file of their own: Celery's result document a row, written by one thread, many at a time.

``store`` encodes and queues; the writer thread (green in a patched process, begun at the first ``store``: readers need
none) commits what has gathered, up to 200 records at once, and then tells whoever waits that they are durable. Two
rules are kept by the one statement that writes: SUCCESS is final, and a document takes the place of the one before it.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from greenworker.broker.sqlite.database import Database, Opening, Schema
from greenworker.broker.sqlite.files import RESULTS_FILE
from greenworker.errors import MalformedMessage, ResultsError, ResultTimeoutError, StateFolderError
from greenworker.protocol.results import READY_STATES, SUCCESS, ResultMeta, decode_meta, encode_meta
from greenworker.protocol.serialization import decode, encode
from greenworker.results.base import ResultsOptions

logger = logging.getLogger(__name__)

BATCH = 200
QUEUE_LIMIT = 2_000  # records; a store that is away makes its callers wait from there on
STOP_TIMEOUT = 5.0
BEHIND_INTERVAL = 10.0  # seconds between complaints of a caller that waits for a place in the queue
RETRY_DELAY, RETRY_DELAY_MAX = 0.1, 5.0
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


@dataclass(frozen=True, slots=True)
class _Record:
    task_id: str
    status: str
    content_type: str
    content_encoding: str
    document: str | bytes
    stored: Callable[[], None] | None


class SqliteResults:
    """The ResultStore (results/base.py) of a file."""

    def __init__(self, path: Path, options: ResultsOptions | None = None) -> None:
        self._path = path
        self._options = options or ResultsOptions()
        self._database: Database | None = None
        self._queue: queue.Queue[_Record | None] = queue.Queue(QUEUE_LIMIT)  # None: wake up and look at _stopping
        self._unwritten = 0  # queued or being written; under _idle
        self._idle = threading.Condition()
        self._stopping = threading.Event()
        self._writer: threading.Thread | None = None

    def start(self) -> None:
        """Open the file, which ``options.create`` makes where missing. Raises StateFolderError or ResultsError."""
        if self._database is not None:
            return
        self._database = Database(self._path, self._opening())
        self._stopping.clear()

    def store(self, meta: ResultMeta, stored: Callable[[], None] | None = None) -> None:
        serializer = self._options.serializer
        body, content_type, content_encoding = encode(encode_meta(meta, serializer), serializer)
        document = body.decode() if content_encoding == "utf-8" else body
        record = _Record(meta.task_id, meta.status, content_type, content_encoding, document, stored)
        with self._idle:
            self._unwritten += 1
            if self._writer is None and not self._stopping.is_set():
                self._writer = threading.Thread(target=self._serve, name="results-writer", daemon=True)
                contextvars.Context().run(self._writer.start)  # else a green one has the first caller's task for ever
        while not self._stopping.is_set():
            try:
                self._queue.put(record, timeout=BEHIND_INTERVAL)
            except queue.Full:
                logger.warning("%d results wait to be stored in %s: tasks wait for them", QUEUE_LIMIT, self._path)
            else:
                return
        with self._idle:
            self._unwritten -= 1
        raise ResultsError(f"results store: stopped, the result of task {meta.task_id} is not stored")

    def get(self, task_id: str) -> ResultMeta | None:
        rows = self._opened().read(_READ, (task_id, time.time()))
        if not rows:
            return None
        content_type, content_encoding, document = rows[0]
        try:
            return decode_meta(decode(document, content_type, content_encoding, accept=(content_type,)))
        except MalformedMessage as exc:
            raise ResultsError(f"results store: the stored result of task {task_id} is damaged: {exc.reason}") from exc

    def wait(self, task_id: str, timeout: float) -> ResultMeta:
        deadline, poll = time.monotonic() + timeout, FIRST_POLL
        while True:
            meta = self.get(task_id)
            if meta is not None and meta.status in READY_STATES:
                return meta
            left = deadline - time.monotonic()
            if left <= 0:
                state = "no record of it" if meta is None else f"its state is {meta.status}"
                raise ResultTimeoutError(f"no result of task {task_id} within {timeout:g} s: {state}")
            time.sleep(min(poll, left))
            poll = min(poll * 1.5, LONGEST_POLL)

    def forget(self, task_id: str) -> None:
        with self._opened().transaction() as tx:
            tx.execute("DELETE FROM results WHERE task_id = ?", (task_id,))

    def flush(self, timeout: float) -> bool:
        with self._idle:
            return self._idle.wait_for(lambda: self._unwritten == 0, timeout)

    def stop(self) -> None:
        if self._database is None:
            return
        self.flush(STOP_TIMEOUT)
        self._stopping.set()
        if self._writer is not None:
            self._wake_writer()
            self._writer.join(STOP_TIMEOUT)
            self._writer = None
        self._database.close()
        self._database = None
        if self._unwritten:
            logger.error("%d results were not stored: %s could not be written", self._unwritten, self._path)

    def _opening(self) -> Opening:
        return Opening(
            purpose=RESULTS_FILE,
            schema=SCHEMA,
            unavailable=ResultsError,
            create=self._options.create,
            synchronous=self._options.synchronous,
            file_group=self._options.file_group,
        )

    def _opened(self) -> Database:
        database = self._database
        if database is None:
            raise ResultsError("results store: it is not started, or stopped already")
        if database.moved:
            logger.warning("%s was moved away or deleted: opening what is there now", self._path)
            self._database = database = Database(self._path, self._opening())  # others may still be reading the old one
        return database

    def _wake_writer(self) -> None:
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            pass  # then it is awake

    # --- the writer ---------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        expire_at = 0.0
        while not self._stopping.is_set():
            batch = self._gather(max(0.001, expire_at - time.monotonic()))
            if batch:
                self._write_until_written(batch)
            if time.monotonic() >= expire_at:
                expire_at = time.monotonic() + (EXPIRY_INTERVAL if self._expire() < EXPIRY_CHUNK else 0.0)

    def _gather(self, timeout: float) -> list[_Record]:
        """What has gathered, 200 records at most; waits for the first one."""
        batch: list[_Record] = []
        try:
            first = self._queue.get(timeout=timeout)
            while first is not None:
                batch.append(first)
                if len(batch) == BATCH:
                    break
                first = self._queue.get_nowait()
        except queue.Empty:
            pass
        return batch

    def _write_until_written(self, batch: Sequence[_Record]) -> None:
        delay = RETRY_DELAY
        while True:
            try:
                self._write(batch)
                break
            except Exception as exc:  # whatever the file has: nothing is dropped, and all acks wait for this thread
                logger.error(
                    "%d results are not stored yet (first: task %s), next try in %.1f s: %s",
                    *(len(batch), batch[0].task_id, delay, exc),
                )
            if self._stopping.wait(delay * random.uniform(0.5, 1.0)):
                return  # stop() has waited its time, and tells how many are lost
            delay = min(delay * 2, RETRY_DELAY_MAX)
        for record in batch:
            self._tell(record)
        with self._idle:
            self._unwritten -= len(batch)
            if self._unwritten == 0:
                self._idle.notify_all()

    def _write(self, batch: Sequence[_Record]) -> None:
        now, expires = time.time(), self._options.expires
        expires_at = None if expires is None else now + expires
        with self._opened().transaction() as tx:
            tx.executemany(
                _WRITE,
                [
                    (
                        each.task_id,
                        each.status,
                        each.content_type,
                        each.content_encoding,
                        each.document,
                        expires_at,
                        now,
                    )
                    for each in batch
                ],
            )

    @staticmethod
    def _tell(record: _Record) -> None:
        if record.stored is None:
            return
        try:
            record.stored()
        except Exception:  # the caller's own fault must not end the writer, on which all others wait
            logger.exception("The callback of the stored result of task %s failed", record.task_id)

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
