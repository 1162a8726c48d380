"""A record: one result as the writer keeps it, encoded; and what is stored in place of one that cannot be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from greenworker.errors import EncodeError, ResultsError, UnstorableResultError
from greenworker.protocol.display import bounded_repr, bounded_text
from greenworker.protocol.results import EXCEPTION_STATES, FAILURE, SUCCESS, ResultMeta, encode_meta
from greenworker.protocol.serialization import encode

LONGEST_REASON = 1_000  # characters


class RefusedRecordError(ResultsError):
    """The store answers that it will never take this one record, as it is; ``args[0]`` says why."""


@dataclass(slots=True, eq=False)
class Record:
    """``meta`` without its result and traceback, which are in ``document`` (None while it is spilled), ``size`` bytes.

    ``stored`` is called by the writer when the store has it.
    """

    meta: ResultMeta
    document: bytes | None
    size: int
    content_type: str
    content_encoding: str
    stored: Callable[[], None] | None
    place: int = 0  # in the spill file
    unreadable: OSError | None = None  # why its document could not be read back from there
    in_place_of: bool = False  # it stands for a record that was refused

    @property
    def task_id(self) -> str:
        return self.meta.task_id

    @property
    def body(self) -> bytes:
        """The document, which must be in memory."""
        assert self.document is not None
        return self.document


def make_record(meta: ResultMeta, serializer: str, stored: Callable[[], None] | None = None) -> Record:
    """Encode ``meta``. Raises EncodeError."""
    document, content_type, content_encoding = encode(encode_meta(meta, serializer), serializer)
    kept = ResultMeta(
        meta.task_id,
        meta.status,
        date_done=meta.date_done,
        parent_id=meta.parent_id,
        group_id=meta.group_id,
        reply_to=meta.reply_to,
        correlation_id=meta.correlation_id,
    )
    return Record(kept, document, len(document), content_type, content_encoding, stored)


def unstorable(meta: ResultMeta, reason: object) -> ResultMeta:
    """A small result that says why ``meta`` is not there. A task that had succeeded has failed: its value is lost."""
    was = f"{bounded_repr(meta.result)}: " if meta.result is not None else ""
    return dataclasses.replace(
        meta,
        status=FAILURE if meta.status == SUCCESS else meta.status,
        result=UnstorableResultError(f"{was}{bounded_text(str(reason), LONGEST_REASON)}"),
        traceback=None,
        children=[],
    )


def stand_in(record: Record, reason: object, serializer: str) -> Record | None:
    """What to store in place of a record that was refused; None if nothing can be.

    A state of the task's own, STARTED or PROGRESS, is nothing that a failure could stand for: the task still runs.
    """
    if record.in_place_of or record.meta.status not in EXCEPTION_STATES | {SUCCESS}:
        return None
    meta = unstorable(record.meta, reason)
    meta.date_done = meta.date_done or datetime.now(UTC)
    try:
        made = make_record(meta, serializer, record.stored)
    except EncodeError:  # a reason that this serializer cannot write is no reason to stop the others
        return None
    made.in_place_of = True
    return made
