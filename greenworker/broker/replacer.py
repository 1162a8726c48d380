"""Messages that take the place of deliveries (retries, links, dead letters, parked ETAs), published in the background.

Rules this file keeps:

* Nobody waits for a confirm: neither the loop nor a slot. One service thread publishes what has gathered, together.
* The delivery is acked by ``Publisher.replace`` alone, after the confirm. What cannot be published is tried again, for
  as long as its delivery is still ours; when its connection is gone the broker delivers the original again, so the
  replacement is dropped, or the work would be there twice.
* Whoever asked is told what came of it, once: ``done(fate)``.
* One message that cannot be published must not hold up the others, and nothing that a publisher raises may end the
  thread: retries, dead letters and parked messages of the whole worker go through it.
* The queue in front needs no bound of its own: each entry holds a delivery, and those are bounded by the prefetch.
"""

from __future__ import annotations

import enum
import logging
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from greenworker.broker.delivery import Delivery
from greenworker.broker.publisher import Outgoing, Publisher, Replacement
from greenworker.errors import EncodeError, PublishError

logger = logging.getLogger(__name__)

BATCH = 200  # replacements that share one round trip
RETRY_DELAY, RETRY_DELAY_MAX = 0.2, 5.0
STOP_TIMEOUT = 5.0

# What encoders raise for headers or properties that do not fit into a message: ours, json's, py-amqp's.
_UNSENDABLE = (EncodeError, struct.error, TypeError, ValueError, OverflowError)


class Fate(enum.Enum):
    """What came of a replacement."""

    PUBLISHED = "published"  # and its delivery acked
    DROPPED = "dropped"  # not published: its delivery is not ours any more, and comes again
    UNSENDABLE = "unsendable"  # not published, ever: it cannot be put into a message of this broker


@dataclass(frozen=True, slots=True)
class Companion:
    """A message that goes out because of a delivery and leaves it unsettled: each but the last of several links."""

    delivery: Delivery
    outgoing: Outgoing


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    replacement: Replacement | Companion
    done: Callable[[Fate], None]


class Replacer:
    """Takes replacements from any greenlet or thread and sees them through."""

    def __init__(self, publisher: Publisher, retry_delay: float = RETRY_DELAY) -> None:
        self._publisher = publisher
        self._retry_delay = retry_delay
        self._waiting: deque[_Entry] = deque()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._serve, name="replacer", daemon=True)
        self._thread.start()

    def put(self, replacement: Replacement | Companion, done: Callable[[Fate], None]) -> None:
        """Publish ``replacement`` and ack its delivery (not a Companion's), soon; ``done`` is told how it went.

        ``done`` must not block.
        """
        self._waiting.append(_Entry(replacement, done))
        self._wake.set()

    def stop(self) -> None:
        """Publish what waits, as far as that works within a few seconds; the rest is delivered again by the broker."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT)
            self._thread = None

    def _serve(self) -> None:
        size, delay = BATCH, self._retry_delay
        while self._waiting or not self._stopping.is_set():
            self._wake.wait(1.0)
            self._wake.clear()
            batch = self._take(size)
            if not batch:
                continue
            failed = self._replace(batch)
            if not failed:
                size, delay = min(size * 4, BATCH), self._retry_delay
            else:
                # The next batches are smaller and the failed messages go to the end of the line, so that one that no
                # queue takes does not hold up the others.
                self._waiting.extend(failed)
                if self._stopping.wait(delay):
                    return  # the broker refuses or is away, and nobody waits any longer
                size, delay = max(1, size // 4), min(delay * 2, RETRY_DELAY_MAX)
            if self._waiting:
                self._wake.set()

    def _take(self, size: int) -> list[_Entry]:
        batch: list[_Entry] = []
        while self._waiting and len(batch) < size:
            entry = self._waiting.popleft()
            delivery = entry.replacement.delivery
            if delivery.settled is None and delivery.source.closed:
                logger.info(
                    "A replacement of a message of %s is dropped: its connection is lost, it comes again.",
                    delivery.queue,
                )
                self._tell(entry, Fate.DROPPED)
            else:
                batch.append(entry)
        return batch

    def _replace(self, batch: Sequence[_Entry]) -> list[_Entry]:
        """Publish a batch; returns what is to be tried again."""
        replacements = [entry.replacement for entry in batch if isinstance(entry.replacement, Replacement)]
        if len(replacements) == len(batch):  # companions are rare
            return self._send(batch, lambda: self._publisher.replace(replacements))
        companions = [entry for entry in batch if isinstance(entry.replacement, Companion)]
        others = [entry for entry in batch if isinstance(entry.replacement, Replacement)]
        outgoing = [entry.replacement.outgoing for entry in companions]
        failed = self._send(companions, lambda: self._publisher.publish(outgoing))
        return failed + (self._send(others, lambda: self._publisher.replace(replacements)) if others else [])

    def _send(self, batch: Sequence[_Entry], send: Callable[[], None]) -> list[_Entry]:
        """``send`` what ``batch`` holds; returns what is to be tried again."""
        failed: list[_Entry] = []
        try:
            send()
        except _UNSENDABLE:
            if len(batch) > 1:
                return list(batch)  # which of them it is shows when the batches have shrunk to one
            logger.exception("A message that replaces one of %s cannot be sent", batch[0].replacement.delivery.queue)
            self._tell(batch[0], Fate.UNSENDABLE)
            return []
        except Exception as exc:  # whatever a driver raises while the broker is away; the thread must survive it
            unpublished = exc.unpublished if isinstance(exc, PublishError) else None
            failed = [entry for entry in batch if unpublished is None or entry.replacement.outgoing in unpublished]
            logger.warning(
                "%d messages that replace others are not published, trying again (first: for queue %s): %s",
                len(failed),
                failed[0].replacement.outgoing.routing_key if failed else "none",
                exc,
            )
        for entry in batch:
            if entry not in failed:
                self._tell(entry, _fate(entry.replacement))
        return failed

    @staticmethod
    def _tell(entry: _Entry, fate: Fate) -> None:
        try:
            entry.done(fate)
        except Exception:  # the settlement of one request must not end the thread for all
            logger.exception("Settling a message of %s after its replacement failed", entry.replacement.delivery.queue)


def _fate(published: Replacement | Companion) -> Fate:
    """What came of one that the publisher took: a replacement of what was no longer ours left it unsettled."""
    if isinstance(published, Replacement) and published.delivery.settled is None:
        return Fate.DROPPED
    return Fate.PUBLISHED
