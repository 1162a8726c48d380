"""The writer: one service thread that brings all results of a process to their store, many at a time.

Rules this file keeps:

* What was accepted is never dropped. While the store is away the writer tries again, for ever.
* ``put`` never waits for the store, so that neither the loop nor a slot does: documents wait in memory, then in the
  spill file, and when both are full ``full`` is True. Then no new tasks are taken (consumer/pause.py); those in hand
  may still finish, and are kept beyond the limit: the prefetch bounds how many. Only a caller that nothing else
  bounds, a task that stores states of its own one after the other, waits for room.
* ``stored`` is called when the store has the record, wherever it waited: so a late ack never comes too early.
* One record that the store refuses must not stop the others. A failing batch goes back to the front, in order, and the
  next ones are smaller, until the one at fault stands alone; what the store will never take is replaced by a small
  FAILURE that says so.
"""

from __future__ import annotations

import contextvars
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from greenworker.errors import ResultsError
from greenworker.results.record import Record, RefusedRecordError, stand_in
from greenworker.results.spill import Spill

logger = logging.getLogger(__name__)

BATCH = 200  # records
BATCH_BYTES = 4 * 1024 * 1024  # a batch that has more is full
BUFFER_BYTES = 64 * 1024 * 1024  # of documents in memory, however few they are
RETRY_DELAY, RETRY_DELAY_MAX = 0.1, 5.0
COMPLAINT_INTERVAL = 10.0
IDLE_LIMIT = 60.0
STOP_TIMEOUT = 3.0  # for what waits to be written
JOIN_TIMEOUT = 1.0  # for a thread that waits for a store that does not answer


class Backend(Protocol):
    """What a store does for its writer. Called by the writer's thread alone."""

    def write(self, batch: Sequence[Record]) -> Mapping[Record, Exception]:
        """Write all, in order; returns those that are not written, each with the reason.

        RefusedRecordError is one that will not pass; with any other it is tried again. Raises what kept all of them
        from being written: the store is away.
        """

    def upkeep(self) -> float:
        """Whatever the store needs now and then; returns in how many seconds it should be called again."""


class ResultsWriter:
    """Takes records from any greenlet or thread. ``full`` is written here, and read by the consumer's loop."""

    def __init__(self, backend: Backend, place: str, serializer: str, buffer_limit: int, spill: Spill) -> None:
        """``place``: the store as logs name it, without secrets. ``buffer_limit``: records in memory."""
        self.full = False
        self._backend = backend
        self._place = place
        self._serializer = serializer
        self._buffer_limit = buffer_limit
        self._changed = threading.Condition(threading.Lock())  # guards everything down to _stopped
        self._spill = spill
        self._waiting: deque[Record] = deque()
        self._unwritten = 0  # records that wait, or are being written
        self._in_memory = self._in_memory_bytes = 0  # those of them that are not spilled
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._failing_since: float | None = None  # this and the next: the thread's own
        self._complained_at = 0.0

    # --- from anywhere ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take records (again). The thread begins with the first one: readers need none."""
        with self._changed:
            self._stopped = False
        self._stopping.clear()

    def put(self, record: Record) -> None:
        """Have ``record`` written. Raises ResultsError when the writer is stopped.

        One without ``stored`` is what no delivery waits for, so that nothing bounds their number: it waits for room.
        """
        with self._changed:
            if record.stored is None:
                self._wait_for_room()
            if self._stopped:
                raise ResultsError(f"results store: stopped, the result of task {record.task_id} is not stored")
            self._unwritten += 1
            self._waiting.append(record)
            self._keep(record)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="results-writer", daemon=True)
                contextvars.Context().run(self._thread.start)  # else a green one has the first caller's task for ever
        self._wake.set()

    def flush(self, timeout: float) -> bool:
        """Wait until all is written; False if ``timeout`` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: self._unwritten == 0, timeout)

    def stop(self) -> None:
        """Write what waits, as far as that works, and end. Harmless before ``start`` and twice."""
        with self._changed:
            thread = self._thread
        if thread is not None:
            self.flush(STOP_TIMEOUT)
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._stopping.set()
        self._wake.set()
        if thread is not None:
            thread.join(JOIN_TIMEOUT)
        with self._changed:
            lost, self._thread = self._unwritten, None
            self._waiting.clear()
            self._spill.close()
            self._in_memory = self._in_memory_bytes = self._unwritten = 0
            self.full = False
        if lost:
            logger.error(
                "%d results are not stored: %s could not be written. Tasks that are acked late run again.",
                *(lost, self._place),
            )

    def _wait_for_room(self) -> None:
        while self.full and not self._stopped:
            if not self._changed.wait(COMPLAINT_INTERVAL):
                logger.warning("A task waits to store its state: %d results wait for %s", self._unwritten, self._place)

    # --- where documents wait; under _changed -------------------------------------------------------------------

    def _keep(self, record: Record) -> None:
        room = self._in_memory < self._buffer_limit and self._in_memory_bytes + record.size <= BUFFER_BYTES
        if not room:
            place = self._spill.put(record.body)
            if place is not None:
                record.document, record.place = None, place
                return
        self._in_memory += 1
        self._in_memory_bytes += record.size
        if not room:
            self._overflow()

    def _overflow(self) -> None:
        if not self.full:
            self.full = True
            logger.warning(
                "%d results wait for %s, more than [results] buffer_limit and spill_bytes have room for: "
                "no new tasks are taken until they are stored",
                *(self._unwritten, self._place),
            )

    def _fetch(self, record: Record) -> None:
        """Have its document in memory. Raises OSError if it cannot be read back; it is an empty one then."""
        if record.document is not None:
            return
        record.document = b""
        self._in_memory += 1
        self._in_memory_bytes += record.size
        try:
            record.document = self._spill.read(record.place, record.size)
        finally:
            self._spill.free()

    def _account(self, batch: Sequence[Record], left: Sequence[Record]) -> None:
        """Of ``batch``, which was in the thread's hands, ``left`` goes back to the front; the rest is done with."""
        self._waiting.extendleft(reversed(left))
        self._unwritten -= len(batch) - len(left)
        self._in_memory -= len(batch) - len(left)
        self._in_memory_bytes -= sum(record.size for record in batch) - sum(record.size for record in left)
        if self._unwritten == 0:
            self._changed.notify_all()
        if len(left) < len(batch):
            self._relax()

    def _relax(self) -> None:
        """There may be room again; not with the first place, or consuming would pause and go on all the time."""
        if self.full and self._spill.empty and self._in_memory <= self._buffer_limit // 2:
            self.full = False
            self._changed.notify_all()
            logger.warning("Results are stored in %s again: new tasks are taken", self._place)

    # --- the thread ---------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        size, delay = BATCH, RETRY_DELAY
        upkeep_at = 0.0
        while not self._stopping.is_set():
            batch = self._take(size)
            if batch:
                left = self._write(batch)
                with self._changed:
                    self._account(batch, left)
                if not left:
                    size, delay = min(size * 4, BATCH), RETRY_DELAY
                else:
                    size = max(1, len(batch) // 4)
                    self._stopping.wait(delay * random.uniform(0.5, 1.0))
                    delay = min(delay * 2, RETRY_DELAY_MAX)
            if time.monotonic() >= upkeep_at:
                upkeep_at = time.monotonic() + self._upkeep()
            if not batch:
                self._wake.wait(max(0.001, upkeep_at - time.monotonic()))
                self._wake.clear()

    def _upkeep(self) -> float:
        try:
            return min(self._backend.upkeep(), IDLE_LIMIT)
        except Exception:  # nothing of it is worth the thread, on which all acks wait
            logger.exception("The upkeep of %s failed", self._place)
            return IDLE_LIMIT

    def _take(self, size: int) -> list[Record]:
        batch: list[Record] = []
        taken_bytes = 0
        with self._changed:
            while self._waiting and len(batch) < size and taken_bytes < BATCH_BYTES:
                if batch and self._failing_since is not None and self._waiting[0].document is None:
                    break  # the store is away: what is in the file is better left there
                record = self._waiting.popleft()
                try:
                    self._fetch(record)
                except OSError as exc:
                    record.unreadable = exc
                batch.append(record)
                taken_bytes += record.size
        return batch

    def _write(self, batch: Sequence[Record]) -> list[Record]:
        """Write a batch and tell whoever waits; returns what is to be tried again."""
        readable = [record for record in batch if record.unreadable is None]
        try:
            failed = dict(self._backend.write(readable)) if readable else {}
        except Exception as exc:  # whatever a driver raises while the store is away; all acks wait for this thread
            self._complain(batch, exc)
            return list(batch)
        for record in batch:
            if record.unreadable is not None:
                failed[record] = RefusedRecordError(
                    f"its document cannot be read back from a file: {record.unreadable}"
                )
        finished, left = self._sort_out(batch, failed)
        for record in finished:
            self._tell(record)
        return left

    def _sort_out(
        self, batch: Sequence[Record], failed: Mapping[Record, Exception]
    ) -> tuple[list[Record], list[Record]]:
        """What is done with, and what is to be written again, both in order."""
        finished: list[Record] = []
        left: list[Record] = []
        written: set[str] = set()
        for record in reversed(batch):
            error = failed.get(record)
            if error is None:
                written.add(record.task_id)
                finished.append(record)
            elif record.task_id in written:
                finished.append(record)  # a later state of its task is there: this one must not come behind it
            elif isinstance(error, RefusedRecordError):
                replacement = self._refused(record, error)
                if replacement is None:
                    finished.append(record)
                else:
                    left.append(replacement)
            else:
                left.append(record)
        finished.reverse()
        left.reverse()
        self._say_how_it_goes([record for record in left if record in failed], failed)
        return finished, left

    def _say_how_it_goes(self, temporary: Sequence[Record], failed: Mapping[Record, Exception]) -> None:
        if temporary:
            self._complain(temporary, failed[temporary[0]])
        elif self._failing_since is not None:
            logger.warning(
                "Results are stored in %s again, after %.1f s", self._place, time.monotonic() - self._failing_since
            )
            self._failing_since = None

    def _refused(self, record: Record, reason: Exception) -> Record | None:
        replacement = stand_in(record, reason, self._serializer)
        logger.error(
            "The result of task %s (%s, %d bytes) cannot be stored in %s: %s. %s",
            *(record.task_id, record.meta.status, record.size, self._place, reason),
            "It is dropped" if replacement is None else f"Stored in its place: {replacement.meta.status}",
        )
        return replacement

    def _complain(self, records: Sequence[Record], reason: Exception) -> None:
        now = time.monotonic()
        first, self._failing_since = self._failing_since is None, self._failing_since or now
        if first or now - self._complained_at >= COMPLAINT_INTERVAL:
            self._complained_at = now
            logger.error(
                "%d results are not stored yet (the first: of task %s), trying again: %s",
                *(self._unwritten, records[0].task_id, reason),
            )

    @staticmethod
    def _tell(record: Record) -> None:
        if record.stored is None:
            return
        try:
            record.stored()
        except Exception:  # the caller's own fault must not end the writer, on which all others wait
            logger.exception("The callback of the stored result of task %s failed", record.task_id)
