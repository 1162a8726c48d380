"""One SQLite file in WAL mode: opening, transactions that wait for locks in green time, errors that say what to do.

SQLite's own busy handler sleeps in C and would stop every green thread of the process, so its timeout is 0 and a lock
is waited for with ``time.sleep``, which is green in a patched process. Statements themselves block for microseconds, as
long as transactions stay small: callers keep them to about a hundred rows.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from greenworker.broker.sqlite.files import Purpose, cannot_open, check_access, create_files
from greenworker.errors import GreenworkerError, StateFolderError

Result = TypeVar("Result")

LOCK_TIMEOUT = 10.0  # seconds: far above any transaction of ours, so that whoever holds it longer is stuck
FIRST_NAP, LONGEST_NAP = 0.000_2, 0.01  # seconds between tries for the lock
PAGE_BYTES = 2048  # a commit writes whole pages: half of SQLite's 4,096 make a commit a sixth cheaper, 1,024 no more
SYNCHRONOUS = ("normal", "full")

_CONTENDED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_FORBIDDEN = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}
_DAMAGED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of one kind of file. ``application_id`` marks the file as ours (SQLite header, offset 68)."""

    application_id: int
    version: int
    script: Sequence[str]


@dataclass(frozen=True, slots=True)
class Opening:
    """How to open a file. ``unavailable`` is the class of errors that can pass (disk full, lock held, I/O error)."""

    purpose: Purpose
    schema: Schema
    unavailable: type[GreenworkerError]
    create: bool = False
    synchronous: str = "normal"
    file_group: str | None = None
    lock_timeout: float = LOCK_TIMEOUT


class Database:
    """One connection, used by one caller at a time. Any greenlet or thread may call ``read`` and ``transaction``."""

    def __init__(self, path: Path, opening: Opening) -> None:
        """Open, and create if ``opening.create``. Raises StateFolderError or ``opening.unavailable``."""
        if opening.synchronous not in SYNCHRONOUS:
            raise ValueError(f"synchronous must be one of {', '.join(SYNCHRONOUS)}, not {opening.synchronous!r}")
        self.path = path
        self._opening = opening
        self._lock = threading.Lock()
        if opening.create:
            create_files(path, opening.purpose, opening.file_group)
        check_access(path, opening.purpose)
        self._opened_identity = self._identity()
        try:
            self._connection = sqlite3.connect(
                f"file:{quote(str(path))}?mode=rw",
                uri=True,
                timeout=0,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.DatabaseError as exc:
            raise self.told(exc) from exc

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query outside any transaction."""
        deadline = time.monotonic() + self._opening.lock_timeout
        self.hold(deadline)
        try:
            return self._patiently(lambda: self._connection.execute(sql, parameters).fetchall(), deadline)
        except sqlite3.DatabaseError as exc:
            raise self.told(exc) from exc
        finally:
            self._lock.release()

    def transaction(self, timeout: float | None = None) -> TransactionBlock:
        """A write transaction, committed at the end of the ``with`` block, rolled back if the block raises.

        ``timeout``: seconds to wait for the lock. The block must not wait for anything: others wait for it.
        """
        return TransactionBlock(self, self._opening.lock_timeout if timeout is None else timeout)

    def begin(self, timeout: float) -> sqlite3.Connection:
        """Of TransactionBlock alone: take the lock, and begin."""
        deadline = time.monotonic() + timeout
        self.hold(deadline)
        try:
            self._patiently(lambda: self._connection.execute("BEGIN IMMEDIATE"), deadline)
        except BaseException as exc:
            self._lock.release()
            if isinstance(exc, sqlite3.DatabaseError):
                raise self.told(exc) from exc
            raise
        return self._connection

    def end(self, exc: BaseException | None) -> None:
        """Of TransactionBlock alone: commit, or roll back for ``exc``, and give the lock up."""
        try:
            if exc is None:
                try:
                    self._connection.execute("COMMIT")
                    return
                except sqlite3.DatabaseError as failed:
                    exc = failed
            if self._connection.in_transaction:  # a full disk has rolled back by itself
                self._connection.execute("ROLLBACK")
        finally:
            self._lock.release()
        if isinstance(exc, sqlite3.DatabaseError):
            raise self.told(exc) from exc

    @property
    def moved(self) -> bool:
        """Whether the path leads to another file by now, or to none: what is written here, nobody will read."""
        try:
            return self._identity() != self._opened_identity
        except OSError:
            return True

    def close(self) -> None:
        """Close the connection; the last one to close folds the write-ahead log into the file. Harmless twice."""
        self._connection.close()

    def _identity(self) -> tuple[int, int]:
        status = self.path.stat()
        return status.st_dev, status.st_ino

    def _prepare(self) -> None:
        deadline = time.monotonic() + self._opening.lock_timeout
        version = self._checked_version(deadline)
        if version == 0 and not self._opening.create:
            raise StateFolderError(
                f"{self._opening.purpose.name}: {self.path} has no tables yet, and only the worker makes them. "
                f"Start the worker first, or name its file in {self._opening.purpose.setting}"
            )
        if version == 0:
            self._connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            self._patiently(lambda: self._connection.execute("PRAGMA journal_mode = WAL"), deadline)
        for pragma in (
            f"synchronous = {self._opening.synchronous}",
            "journal_size_limit = 67108864",  # the log shrinks to 64 MiB at a checkpoint after a burst
            "cache_size = -500",  # KiB a connection; what is not in it comes out of the kernel's cache
            "temp_store = memory",
        ):
            self._connection.execute(f"PRAGMA {pragma}")
        if version == 0:
            self._create_tables()

    def _checked_version(self, deadline: float) -> int:
        schema, purpose = self._opening.schema, self._opening.purpose
        version = self._pragma("user_version", deadline)
        if version > schema.version:
            raise StateFolderError(
                f"{purpose.name}: {self.path} was written by a newer greenworker (schema {version}, this one knows "
                f"{schema.version}): upgrade this one, or name another file in {purpose.setting}"
            )
        tables = self._patiently(
            lambda: self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0], deadline
        )
        if (version or tables) and self._pragma("application_id", deadline) != schema.application_id:
            raise StateFolderError(
                f"{purpose.name}: {self.path} is an SQLite file of something else: "
                f"name another file in {purpose.setting}"
            )
        return version

    def _pragma(self, name: str, deadline: float) -> int:
        return int(self._patiently(lambda: self._connection.execute(f"PRAGMA {name}").fetchone()[0], deadline))

    def _create_tables(self) -> None:
        schema = self._opening.schema
        with self.transaction() as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] != 0:
                return  # another worker, starting at the same moment, was first
            for statement in schema.script:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {schema.application_id}")
            connection.execute(f"PRAGMA user_version = {schema.version}")

    def _patiently(self, call: Callable[[], Result], deadline: float) -> Result:
        """``call``, again and again while another process holds the lock it needs, until ``deadline``."""
        nap = FIRST_NAP
        while True:
            try:
                return call()
            except sqlite3.OperationalError as exc:
                if primary_code(exc) not in _CONTENDED or time.monotonic() >= deadline:
                    raise
            time.sleep(nap)
            nap = min(nap * 2, LONGEST_NAP)

    def hold(self, deadline: float) -> None:
        """Take the connection for this caller alone. Raises ``unavailable`` at ``deadline``."""
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise self._opening.unavailable(f"{self._opening.purpose.name}: {self.path} is busy in this process")

    def told(self, exc: sqlite3.DatabaseError) -> Exception:
        """SQLite's error as ours, which says what is wrong and what to do; itself where it is a fault of our own."""
        code, name, path = primary_code(exc), self._opening.purpose.name, self.path
        unavailable = self._opening.unavailable
        if code in _FORBIDDEN:
            return StateFolderError(cannot_open(path, self._opening.purpose, str(exc)))
        if code in _DAMAGED:
            return StateFolderError(
                f"{name}: {path} is damaged, or no SQLite file ({exc}). Stop all workers, move it away together "
                f"with {path.name}-wal and {path.name}-shm, save what can be saved with "
                f"'sqlite3 {path.name} .recover', and start again"
            )
        if code == sqlite3.SQLITE_FULL:
            return unavailable(f"{name}: no space left for {path}: free some on its disk")
        if code == sqlite3.SQLITE_IOERR:
            return unavailable(f"{name}: reading or writing {path} failed: {exc}")
        if code in _CONTENDED:
            return unavailable(f"{name}: another process keeps {path} locked ({exc})")
        return exc


class TransactionBlock:
    """The ``with`` block of one transaction. A class and no generator: it is on the way of every message."""

    __slots__ = ("_database", "_timeout")

    def __init__(self, database: Database, timeout: float) -> None:
        self._database = database
        self._timeout = timeout

    def __enter__(self) -> sqlite3.Connection:
        return self._database.begin(self._timeout)

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        self._database.end(exc)


def primary_code(exc: sqlite3.Error) -> int:
    """SQLite's primary result code of an error, 0 where there is none (the module's own errors)."""
    return int(getattr(exc, "sqlite_errorcode", 0) or 0) & 0xFF
