"""What a results store can do, whichever it is, and the factory that makes one from a URL.

The contract that all stores keep:

* ``store`` encodes at once, in the caller, so that a value that cannot be encoded is the caller's error; the write
  itself happens later, in the store's own writer, together with others.
* A record that was accepted is never dropped: while the store is unavailable its writer tries again, forever, and the
  bounded queue in front of it makes callers wait. ``stored`` is called when the record is durable, not before.
* SUCCESS is final: no later state overwrites it. Only ``forget`` removes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from greenworker.broker.connection import SQLITE_SCHEME, database_path, scheme_of
from greenworker.errors import SettingsError
from greenworker.protocol.results import ResultMeta

NO_RESULTS = "none"
RESULTS_FILE = "results.db"


@dataclass(frozen=True, slots=True)
class ResultsOptions:
    """How results are kept. ``expires`` in seconds, None: forever.

    ``create`` is True in the worker alone: a reader that made a missing store would wait at an empty one.
    ``synchronous`` ("normal" or "full") and ``file_group`` concern stores in a file.
    """

    expires: float | None = 86_400.0
    serializer: str = "json"
    create: bool = False
    synchronous: str = "normal"
    file_group: str | None = None


class ResultStore(Protocol):
    """Results in, results out. Any greenlet or thread may call anything here between ``start`` and ``stop``."""

    def start(self) -> None:
        """Open the store and start its writer. Raises StateFolderError or ResultsError if it cannot be used."""

    def store(self, meta: ResultMeta, stored: Callable[[], None] | None = None) -> None:
        """Queue one record; ``stored`` is called from the writer once it is durable, and must not block.

        Waits while the queue is full. Raises EncodeError if the record cannot be encoded; nothing is queued then.
        """

    def get(self, task_id: str) -> ResultMeta | None:
        """The record of a task; None where there is none (yet, or any more). Raises ResultsError."""

    def wait(self, task_id: str, timeout: float) -> ResultMeta:
        """The record once its state is final. Raises ResultTimeoutError after ``timeout`` seconds, ResultsError."""

    def forget(self, task_id: str) -> None:
        """Remove the record, whatever its state. Raises ResultsError."""

    def flush(self, timeout: float) -> bool:
        """Wait until all that was queued is durable; False if ``timeout`` seconds were not enough."""

    def stop(self) -> None:
        """Write what is queued, as far as that works, and close. Harmless before ``start`` and twice."""


def default_results_url(broker_url: str) -> str:
    """Where results go when ``[results] url`` is not set: beside the embedded broker's file, else nowhere."""
    if scheme_of(broker_url) != SQLITE_SCHEME:
        return NO_RESULTS
    return f"{SQLITE_SCHEME}:///{database_path(broker_url).parent / RESULTS_FILE}"


def make_results(url: str | None, options: ResultsOptions | None = None) -> ResultStore:
    """The store for ``[results] url``; None and "none" are the store that keeps nothing. Not started yet.

    Raises SettingsError for a URL that no store serves.
    """
    options = options or ResultsOptions()
    if url is None or url.strip().lower() in {"", NO_RESULTS}:
        from greenworker.results.null import NullResults

        return NullResults()
    if scheme_of(url) == SQLITE_SCHEME:
        from greenworker.results.sqlite import SqliteResults

        return SqliteResults(database_path(url), options)
    raise SettingsError(
        [f"[results] url: expected sqlite:////path/to/results.db or none, got a URL of scheme {scheme_of(url)!r}"]
    )
