"""The embedded broker's task path: messages claimed in batches, settlements written with the next claim.

One turn is one transaction where it can be: what is in the outbox, then the lease if it is due, then as many messages
as the prefetch has room for. With nothing to do it waits on a bell, and wakes when a parked message falls due.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenworker.broker.connection import ConnectionLostError
from greenworker.broker.delivery import Delivery, Envelope, QueueSpec, Settlement
from greenworker.broker.sqlite.declare import declare
from greenworker.broker.sqlite.files import BROKER_FILE, cannot_open, wake_folder
from greenworker.broker.sqlite.order import QueueOrder
from greenworker.broker.sqlite.store import CHUNK, Claimed, QueueStore, StoreOptions, Transaction, parse_tag
from greenworker.broker.sqlite.upkeep import Upkeep
from greenworker.broker.virtual import decode_message, envelope_of
from greenworker.errors import BrokerError, StateFolderError
from greenworker.green.base import LoopWaiter

logger = logging.getLogger(__name__)

OUTBOX_TIMEOUT = 2.0  # seconds that ``close`` tries for the file's lock; whatever is not written is delivered again


@dataclass(frozen=True, slots=True)
class SqliteOptions:
    """How to consume. ``lease_timeout``: seconds after which a killed consumer's messages go to others."""

    lease_timeout: float = 60.0
    synchronous: str = "normal"
    file_group: str | None = None
    strict_order: bool = False
    batch: int = CHUNK


_Settled = tuple[int | str, Settlement | None, str]  # tag; what to write, None: nothing, its row is gone; queue


class SqliteSource:
    """The Source (broker/source.py) of the queue file. It is the worker's, so it creates the file where missing."""

    asynchronous = False

    def __init__(
        self,
        path: Path,
        on_delivery: Callable[[Delivery], None],
        waiter: LoopWaiter,
        *,
        options: SqliteOptions | None = None,
    ) -> None:
        """Open the file. Raises StateFolderError or BrokerError."""
        options = options or SqliteOptions()
        self.on_delivery = on_delivery
        self._waiter = waiter
        self._batch = max(1, options.batch)
        self._strict = options.strict_order
        self._order = QueueOrder()
        self._specs: dict[str, QueueSpec] = {}
        self._outbox: deque[_Settled] = deque()  # filled from anywhere, emptied by the loop
        self._out: Counter[str] = Counter()  # unsettled deliveries of each queue; written by the loop alone, as is
        self._tags: dict[int, str] = {}  # row -> its newest tag: one claimed again after a lost lease counts once
        self._prefetch = 0
        self._due_at: float | None = None  # Unix time of the next parked message
        self._again = False
        self._stopped = self._closed = False
        self.path = path
        self._store = QueueStore(
            path, StoreOptions(create=True, synchronous=options.synchronous, file_group=options.file_group)
        )
        try:
            self._upkeep = Upkeep(self._store, options.lease_timeout, self._declare)
        except BaseException as exc:
            self._store.close()
            if isinstance(exc, OSError):
                raise StateFolderError(cannot_open(wake_folder(path), BROKER_FILE, str(exc.strerror))) from exc
            raise

    # --- what the consumer's steps call -------------------------------------------------------------------------

    @property
    def unsettled(self) -> int:
        return self._out.total()

    @property
    def closed(self) -> bool:
        return self._closed

    def start(self, queues: Sequence[QueueSpec], prefetch: int) -> None:
        for queue in queues:
            self.add_queue(queue)
        self.set_prefetch(prefetch)

    def add_queue(self, queue: QueueSpec) -> None:
        self._specs[queue.name] = queue
        with _telling_loss(), self._store.transaction() as tx:
            self._declare(tx, [queue.name])
        self._order.add(queue)
        self.wake()

    def cancel_queue(self, name: str) -> None:
        self._order.remove(name)
        self._specs.pop(name, None)

    def set_prefetch(self, count: int) -> None:
        self._prefetch = max(1, count)
        self.wake()

    def register(self, hub: Any, wake: Callable[[], None]) -> None:
        raise NotImplementedError("the embedded broker is pumped, it does not live on a hub")

    def turn(self) -> None:
        self.flush()

    def unregister(self, hub: Any) -> None:
        """It is on none."""

    def stop(self) -> None:
        self._stopped = True

    def wake(self) -> None:
        if not self._closed:
            self._waiter.ring()

    def close(self) -> None:
        if self._closed:
            return
        self._stopped = True
        try:
            self._write_outbox(timeout=OUTBOX_TIMEOUT)
            self._closed = True
            self._upkeep.close()
        except (OSError, sqlite3.Error, BrokerError, StateFolderError) as exc:
            logger.warning("Messages not given back, their lease has to run out first: %s", exc)
        finally:
            self._closed = True
            self._upkeep.close_bells()
            self._store.close()
            self._outbox.clear()
            self._out.clear()
            self._tags.clear()
            self._waiter.close()

    # --- settlements, from any greenlet or thread ---------------------------------------------------------------

    def settle(self, delivery: Delivery, settlement: Settlement) -> None:
        if not self._closed:  # or it was given back
            self._outbox.append((delivery.tag, settlement, delivery.queue))
            self._waiter.ring()

    def forget(self, delivery: Delivery) -> bool:
        """The publisher has deleted the row in the transaction that replaced it: settled, with nothing left to write.

        Returns False if it was settled before.
        """
        if delivery.settled is not None:
            return False
        delivery.settled = Settlement.ACK
        if not self._closed:
            self._outbox.append((delivery.tag, None, delivery.queue))
            self._waiter.ring()
        return True

    # --- the loop -----------------------------------------------------------------------------------------------

    def pump(self, timeout: float) -> None:
        with _telling_loss():
            self._upkeep.run(self._order.names)
            claimed = self._turn()
        for row in claimed:
            self._deliver(row)
        if claimed or self._outbox or self._again:
            time.sleep(0)  # the slots get a turn before the next batch
            return
        if self._waiter.wait(self._upkeep.bell.fileno(), self._upkeep.wait_limit(self._wait_for(timeout))):
            self._upkeep.bell.clear()

    def flush(self) -> None:
        with _telling_loss():
            self._write_outbox()

    def _wait_for(self, timeout: float) -> float:
        if self._due_at is None or not any(self._rooms({}).values()):
            return timeout
        return min(timeout, max(0.0, self._due_at - time.time()))

    def _rooms(self, settling: Mapping[str, int]) -> dict[str, int]:
        """How many may be claimed from each queue, ``settling`` of its unsettled being settled in the same transaction.

        In strict order each queue has the whole prefetch, so that the first never waits for others' settlements, but
        those behind one that has all of it get nothing; else all share it.
        """
        if self._stopped:
            return {}
        names = self._order.names
        if self._strict:
            each = {name: self._prefetch - self._out[name] + settling.get(name, 0) for name in names}
            return dict(itertools.takewhile(lambda queue: queue[1] > 0, each.items()))
        return dict.fromkeys(names, max(0, self._prefetch - self.unsettled + sum(settling.values())))

    def _turn(self) -> list[Claimed]:
        """Write the outbox and claim what there is room for, in one transaction; in none if there is nothing to do."""
        settlements = self._take_outbox()
        rooms = self._rooms(Counter(queue for _, _, queue in settlements))
        self._again = False
        ready: list[str] = []
        due: list[str] = []
        if any(rooms.values()):
            now = time.time()
            states = self._store.look([name for name, room in rooms.items() if room])
            ready = [state.name for state in states if state.ready]
            due = [state.name for state in states if state.due_at is not None and state.due_at <= now]
            self._due_at = min((state.due_at for state in states if state.due_at is not None), default=None)
        if not settlements and not ready and not due:
            return []
        try:
            with self._store.transaction() as tx:
                self._settle(tx, settlements)
                self._upkeep.keep_lease(tx)
                promoted = sum(self._store.promote(tx, name) for name in due)
                wanted = {name: room for name, room in rooms.items() if name in {*ready, *due}}
                claimed = self._claim_in_order(tx, wanted) if self._strict else self._claim_by_weight(tx, wanted)
        except BaseException:
            self._put_back_in_outbox(settlements)
            raise
        self._after(settlements, promoted > len(claimed))
        self._again = bool(ready or due)  # if it was expired, or another's in the meantime: there may be more behind it
        return claimed

    def _claim_in_order(self, tx: Transaction, rooms: Mapping[str, int]) -> list[Claimed]:
        claimed: list[Claimed] = []
        for name, room in rooms.items():
            wanted = min(room, self._batch - len(claimed))
            rows = self._store.claim(tx, name, self._upkeep.session.id, wanted)
            claimed += rows
            if len(rows) == wanted:
                break  # there may be more in it, and what is behind it would fill the slots meanwhile
        return claimed

    def _claim_by_weight(self, tx: Transaction, rooms: Mapping[str, int]) -> list[Claimed]:
        queues = list(rooms)
        room = min(self._batch, *rooms.values()) if rooms else 0
        claimed: list[Claimed] = []
        while len(claimed) < room and queues:
            picks = self._order.plan(room - len(claimed), queues)
            rows: dict[str, deque[Claimed]] = {}
            for name in dict.fromkeys(picks):
                wanted = picks.count(name)
                rows[name] = deque(self._store.claim(tx, name, self._upkeep.session.id, wanted))
                if len(rows[name]) < wanted:
                    queues.remove(name)
                    self._order.empty(name)
            claimed += [rows[name].popleft() for name in picks if rows[name]]
        return claimed

    def _deliver(self, row: Claimed) -> None:
        tag = row.tag
        if row.id not in self._tags:
            self._out[row.queue] += 1
        self._tags[row.id] = tag
        try:
            head = decode_message(row.head)
            origin = head["properties"].get("delivery_info") or {}
            envelope = envelope_of(head, row.body)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            # As a message without a task it goes the way of all malformed ones.
            logger.error("A message of queue %s (row %d) has a head that cannot be read: %r", row.queue, row.id, exc)
            origin, envelope = {}, Envelope(row.body, None, None, {}, {})
        self.on_delivery(
            Delivery(
                tag=tag,
                queue=row.queue,
                envelope=envelope,
                exchange=origin.get("exchange") or "",
                routing_key=origin.get("routing_key") or "",
                redelivered=row.attempt > 1,
                source=self,
            )
        )

    # --- the outbox ---------------------------------------------------------------------------------------------

    def _take_outbox(self) -> list[_Settled]:
        return [self._outbox.popleft() for _ in range(min(len(self._outbox), CHUNK))]

    def _put_back_in_outbox(self, settlements: Sequence[_Settled]) -> None:
        self._outbox.extendleft(reversed(settlements))

    def _write_outbox(self, timeout: float | None = None) -> None:
        while settlements := self._take_outbox():
            try:
                with self._store.transaction(timeout) as tx:
                    self._settle(tx, settlements)
            except BaseException:
                self._put_back_in_outbox(settlements)
                raise
            self._after(settlements, False)

    def _settle(self, tx: Transaction, settlements: Sequence[_Settled]) -> None:
        acked = [tag for tag, settlement, _ in settlements if settlement is Settlement.ACK]
        requeued = [tag for tag, settlement, _ in settlements if settlement is Settlement.REQUEUE]
        stale = len(acked) - self._store.remove(tx, acked)
        self._store.give_back(tx, requeued)
        if stale:
            logger.warning("%d messages were acked after their lease had run out: others may have run them too", stale)

    def _after(self, settlements: Sequence[_Settled], more_is_ready: bool) -> None:
        for tag, _, queue in settlements:
            row = parse_tag(tag)[0]
            if self._tags.get(row) == tag:
                del self._tags[row]
                self._out[queue] -= 1
        if more_is_ready or any(settlement is Settlement.REQUEUE for _, settlement, _ in settlements):
            self._upkeep.ring()

    def _declare(self, tx: Transaction, names: Sequence[str]) -> None:
        for name in names:
            if name in self._specs:
                declare(self._store, tx, self._specs[name])


@contextlib.contextmanager
def _telling_loss() -> Iterator[None]:
    """A file that cannot be used any more is a lost connection: opening it again tells what is wrong with it."""
    try:
        yield
    except (BrokerError, StateFolderError) as exc:
        raise ConnectionLostError(str(exc)) from exc
