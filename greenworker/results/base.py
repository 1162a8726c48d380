"""What a results store can do, whichever it is, and the factory that makes one from a URL.

The contract that all stores keep:

* ``store`` encodes at once, in the caller, so that a value that cannot be encoded is the caller's error; the write
  itself happens later, in the store's writer, together with others (writer.py).
* A record that was accepted is never dropped while the process lives. ``stored`` is called when the store has it, not
  before.
* SUCCESS is final: no later state overwrites it. Only ``forget`` removes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from greenworker.broker.connection import SQLITE_SCHEME, ConnectionOptions, database_path, is_redis, scheme_of
from greenworker.broker.publisher import Publisher
from greenworker.errors import SettingsError
from greenworker.protocol.results import ResultMeta

NO_RESULTS = "none"
RPC_SCHEME = "rpc"
RESULTS_FILE = "results.db"


@dataclass(frozen=True, slots=True)
class ResultsOptions:
    """How results are kept. ``expires`` in seconds, None: forever.

    ``create`` is True in the worker alone: a reader that made a missing store would wait at an empty one.
    ``synchronous`` ("normal" or "full") and ``file_group`` concern stores in a file; ``connecting`` and
    ``connections`` (the most there are at a time) stores on a server. ``persistent``: results that are sent over rpc
    survive a restart of the broker. ``buffer_limit`` results wait in memory while the store is away, ``spill_bytes``
    in a file in ``spill_folder``.
    """

    expires: float | None = 86_400.0
    serializer: str = "json"
    create: bool = False
    synchronous: str = "normal"
    file_group: str | None = None
    connecting: ConnectionOptions = field(default_factory=lambda: ConnectionOptions(section="results"))
    connections: int = 10
    persistent: bool = False
    buffer_limit: int = 1_000
    spill_bytes: int = 64 * 1024 * 1024
    spill_folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Broker:
    """The broker, for results that are sent over it. ``publisher`` opens it, or hands out the one that is open."""

    urls: tuple[str, ...]
    publisher: Callable[[], Publisher]


class ResultStore(Protocol):
    """Results in, results out. Any greenlet or thread may call anything here between ``start`` and ``stop``."""

    @property
    def full(self) -> bool:
        """No more results should be made for now: what has room for those that wait is full."""

    def start(self) -> None:
        """Open the store and start its writer. Raises StateFolderError or ResultsError if it cannot be used."""

    def store(self, meta: ResultMeta, stored: Callable[[], None] | None = None) -> None:
        """Queue one record; ``stored`` is called from the writer once the store has it, and must not block.

        Never waits with ``stored``, which is for what belongs to a delivery: the prefetch bounds how many there are.
        Without, it waits while the store is ``full``. Raises EncodeError if the record cannot be encoded; nothing is
        queued then.
        """

    def reply_to(self) -> str | None:
        """The queue that results are sent to for this process, where they are sent; it is there then, and listened to.

        None where results are stored. Raises BrokerError.
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


def is_rpc(url: str | None) -> bool:
    """Whether results are sent to those who sent the tasks, and nothing is stored."""
    return url is not None and scheme_of(url) == RPC_SCHEME


def default_results_url(broker_url: str) -> str:
    """Where results go when ``[results] url`` is not set: beside the embedded broker's file, else nowhere."""
    if scheme_of(broker_url) != SQLITE_SCHEME:
        return NO_RESULTS
    return f"{SQLITE_SCHEME}:///{database_path(broker_url).parent / RESULTS_FILE}"


def make_results(url: str | None, options: ResultsOptions | None = None, broker: Broker | None = None) -> ResultStore:
    """The store for ``[results] url``; None and "none" are the store that keeps nothing. Not started yet.

    ``broker`` is what rpc:// goes over. Raises SettingsError for a URL that no store serves.
    """
    options = options or ResultsOptions()
    if url is None or url.strip().lower() in {"", NO_RESULTS}:
        from greenworker.results.null import NullResults

        return NullResults()
    scheme = scheme_of(url)
    if scheme == SQLITE_SCHEME:
        from greenworker.results.sqlite import SqliteResults

        return SqliteResults(database_path(url), options)
    if is_redis(url):
        return _redis_results(url, options)
    if is_rpc(url) and broker is not None:
        if scheme_of(broker.urls[0]) == SQLITE_SCHEME:
            raise SettingsError(
                ["[results] url: rpc:// needs RabbitMQ or Redis; beside the embedded broker leave it out"]
            )
        from greenworker.results.rpc import RpcResults

        return RpcResults(broker, options)
    raise SettingsError(
        [
            "[results] url: expected redis://host:6379/0, rpc://, sqlite:////path/to/results.db or none, "
            f"got a URL of scheme {scheme!r}"
        ]
    )


def _redis_results(url: str, options: ResultsOptions) -> ResultStore:
    try:
        from greenworker.results.redis import RedisResults
    except ModuleNotFoundError as exc:
        raise SettingsError(
            [f"[results] url: Redis needs the package {exc.name!r}, which is not installed: greenworker[redis] has it"]
        ) from None
    return RedisResults(url, options)
