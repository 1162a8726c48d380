"""WrittenResults: what the stores share whose records go through the writer: all but the one that keeps none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from greenworker.errors import MalformedMessage, ResultsError, ResultTimeoutError
from greenworker.protocol.results import READY_STATES, ResultMeta, decode_meta
from greenworker.protocol.serialization import decode, encode
from greenworker.results.base import ResultsOptions
from greenworker.results.record import Record, make_record
from greenworker.results.spill import Spill
from greenworker.results.writer import IDLE_LIMIT, ResultsWriter


class WrittenResults:
    """A subclass opens its store, writes batches (it is its writer's Backend), and reads."""

    def __init__(self, place: str, options: ResultsOptions) -> None:
        """``place``: the store as logs and errors name it, without secrets."""
        self.options = options
        self.place = place
        _, self.content_type, self.content_encoding = encode(None, options.serializer)
        spill = Spill(options.spill_folder, options.spill_bytes)
        self.writer = ResultsWriter(self, place, options.serializer, options.buffer_limit, spill)

    @property
    def full(self) -> bool:
        return self.writer.full

    def store(self, meta: ResultMeta, stored: Callable[[], None] | None = None) -> None:
        self.writer.put(make_record(meta, self.options.serializer, stored))

    def flush(self, timeout: float) -> bool:
        return self.writer.flush(timeout)

    def reply_to(self) -> str | None:
        return None

    def write(self, batch: Sequence[Record]) -> Mapping[Record, Exception]:
        """See writer.Backend."""
        raise NotImplementedError

    def upkeep(self) -> float:
        """See writer.Backend."""
        return IDLE_LIMIT

    def decoded(
        self,
        task_id: str,
        document: bytes | str,
        content_type: str,
        content_encoding: str,
        accept: Sequence[str] | None = None,
    ) -> ResultMeta:
        """The result in a stored document. Raises ResultsError for one that is none.

        ``accept``: the content types that it may be of, by default that of our serializer.
        """
        try:
            return decode_meta(decode(document, content_type, content_encoding, accept or (self.content_type,)))
        except MalformedMessage as exc:
            raise ResultsError(
                f"results store {self.place}: the result of task {task_id} cannot be read: {exc.reason} "
                f"([results] serializer is {self.options.serializer})"
            ) from exc


def is_final(meta: ResultMeta | None) -> bool:
    """Whether there is a result, and not a state on the way to one."""
    return meta is not None and meta.status in READY_STATES


def final(meta: ResultMeta | None, task_id: str, timeout: float) -> ResultMeta:
    """``meta``, what a wait of ``timeout`` seconds came to. Raises ResultTimeoutError if it is not a final state."""
    if meta is not None and is_final(meta):
        return meta
    found = ": no record of it" if meta is None else f": its state is {meta.status}"
    error = ResultTimeoutError(f"no result of task {task_id} within {timeout:g} s{found}")
    error.found = found
    raise error
