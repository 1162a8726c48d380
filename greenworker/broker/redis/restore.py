"""Messages that go back to their queues, where they are taken next: our own, dead consumers', and Celery's.

What is restored is read first, marked as redelivered, and moved by a script that looks once more whether it may: its
consumer may have settled it, or come back, in between. Of those that look for dead consumers' messages, one does so at
a time, a bounded number at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from greenworker.broker.redis.keys import (
    HELD_PREFIX,
    SESSIONS,
    SWEEPER,
    TAG_PREFIX,
    UNACKED,
    UNACKED_INDEX,
    bindings_key,
    held_key,
    number_of,
)
from greenworker.broker.redis.line import Line
from greenworker.broker.redis.message import Entry, read_entry
from greenworker.broker.redis.refusal import Problem
from greenworker.broker.redis.routing import matching_queues
from greenworker.broker.redis.scripts import LOOK, RESTORE, Argument
from greenworker.broker.redis.session import Session

logger = logging.getLogger(__name__)

CHUNK = 200  # messages moved at once
SWEEP_TIMEOUT = 10.0  # seconds after which somebody else sweeps in place of one that has died at it

OWN, DEAD, STALE = "own", "dead", "stale"


class Restorer:
    """Puts messages back. Used by the loop alone; everything raises LINK_ERRORS and ResponseError."""

    def __init__(self, line: Line, session: Session) -> None:
        self._line = line
        self._session = session
        self._problem = Problem(
            "Messages are not put back, and stay in unacked, for a queue's key in Redis takes none: %s"
        )

    def give_back(self, tags: Iterable[str]) -> None:
        """Put back what the session holds, in the order in which it was taken; what is settled is left alone."""
        latest_first = sorted(tags, key=number_of, reverse=True)  # each goes before those that went back before it
        for start in range(0, len(latest_first), CHUNK):
            chunk = latest_first[start : start + CHUNK]
            entries = self._line.ask(("HMGET", UNACKED, *chunk))
            self._restore(OWN, self._session.id, dict(zip(chunk, entries, strict=True)))

    def sweep(self) -> int:
        """Put back a chunk of messages whose consumer is dead: those of one of our sessions whose lease ran out, or
        Celery's whose visibility timeout is over. Returns how many; 0 if somebody else is at it.
        """
        look = LOOK(
            [SESSIONS, UNACKED, UNACKED_INDEX, SWEEPER],
            HELD_PREFIX,
            CHUNK,
            int(self._session.visibility_timeout),
            int(SWEEP_TIMEOUT * 1000),
            TAG_PREFIX,
        )
        found = self._line.ask(look)
        if not found:
            return 0
        session, tags, entries = found[0].decode(), [tag.decode() for tag in found[1]], found[2]
        by_tag = dict(reversed(list(zip(tags, entries, strict=True))))
        restored = self._restore(DEAD if session else STALE, session, by_tag)
        if restored and session:
            logger.warning("%d messages of a worker that died are back on their queues", restored)
        elif restored:
            logger.warning(
                "%d messages that a Celery worker took are back on their queues: [broker] visibility_timeout is over",
                restored,
            )
        return restored

    def _restore(self, which: str, session: str, entries: Mapping[str, bytes | None]) -> int:
        """Move ``entries`` (tag -> what stands in unacked), the last one first in line; returns how many went."""
        lists: list[str] = []
        arguments: list[Argument] = []
        for tag, raw in entries.items():
            entry = _readable(tag, raw)
            targets = [entry.list_of(queue) for queue in self._queues_of(entry)] if entry else []
            lists += targets
            arguments += [tag, entry.message if entry else "", len(targets)]
        keys = [SESSIONS, UNACKED, UNACKED_INDEX, SWEEPER, held_key(session), *lists]
        call = RESTORE(keys, which, session, int(self._session.visibility_timeout), *arguments)
        restored, problem = self._line.ask(call)
        self._problem.now(problem)
        return int(restored)

    def _queues_of(self, entry: Entry) -> list[str]:
        if not entry.exchange:
            return [entry.routing_key]
        bindings = self._line.ask(("SMEMBERS", bindings_key(entry.exchange)))
        queues = matching_queues(bindings, entry.routing_key)
        if not queues:
            logger.warning(
                "No queue is bound to exchange %r with routing key %r any more: a message of a worker that died goes "
                "to the queue of that name",
                entry.exchange,
                entry.routing_key,
            )
        return queues or [entry.routing_key]


def _readable(tag: str, raw: bytes | None) -> Entry | None:
    """None for what is gone, and for what neither kombu nor we have written: that is dropped from unacked."""
    try:
        return None if raw is None else read_entry(raw)
    except ValueError as exc:
        logger.error("What stands in %s for tag %s cannot be read, and is dropped: %s: %r", UNACKED, tag, exc, raw)
        return None
