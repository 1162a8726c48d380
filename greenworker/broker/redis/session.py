"""A consumer's session: under it messages are taken, held, renewed and settled. Makes the calls, and reads the replies.

The lease is the session's, by Redis' clock. Every ``lease_timeout / 3`` all that it holds is renewed for Celery's eyes,
too, in ``unacked_index``, or a Celery worker would put messages back whose visibility timeout is over. A loop that a
task blocks for longer than ``lease_timeout`` renews nothing: others take the session for dead and its messages over,
which is right if the process hangs; if it does not, the session finds itself gone, and what it held may run twice.
(Where the loop runs on kombu's Hub, and the solo pool's tasks with it in one thread, ``keeper`` renews meanwhile.)
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from greenworker.broker.redis.keys import (
    PARKED,
    SESSIONS,
    TAG_PREFIX,
    UNACKED,
    UNACKED_INDEX,
    held_key,
    queue_keys,
    tag_of,
)
from greenworker.broker.redis.message import entry_end
from greenworker.broker.redis.scripts import ACK, BEGIN, END, PROMOTE, RENEW, TAKE, TOUCH, ScriptCall

TOUCH_CHUNK = 1_000  # held messages renewed in one script
PROMOTE_CHUNK = 100
PROMOTE_AGAIN = 60.0  # seconds until a message is tried again whose queue's key is no list


@dataclass(frozen=True, slots=True)
class Wanted:
    """A queue to take from, ``most`` messages at most; ``credit`` is what it has gained and not spent so far."""

    queue: str
    most: int
    weight: int = 1
    credit: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """One message that was taken."""

    tag: str
    queue: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Take:
    """A call that takes messages, and how to read its reply."""

    call: ScriptCall
    session: str
    first_number: int
    wanted: Sequence[Wanted]
    room: int

    def filled(self, taken: Sequence[Taken]) -> bool:
        """Whether it was as large as it could be, from one queue or from all: there may be more."""
        counts = Counter(each.queue for each in taken)
        return len(taken) == self.room or any(counts[each.queue] == each.most for each in self.wanted)

    def read(self, reply: Any) -> TakeResult:
        rows, credits, problem = reply
        taken = [
            Taken(tag_of(self.session, self.first_number + index // 2), self.wanted[rows[index]].queue, rows[index + 1])
            for index in range(0, len(rows), 2)
        ]
        by_queue = {each.queue: credit for each, credit in zip(self.wanted, credits, strict=True)}
        return TakeResult(taken, by_queue, problem)


@dataclass(frozen=True, slots=True)
class TakeResult:
    """Messages in the order of delivery; the queues' credits now; what is wrong with a queue's key (empty: nothing)."""

    taken: Sequence[Taken]
    credits: Mapping[str, int]
    problem: bytes


@dataclass(frozen=True, slots=True)
class News:
    """What a renewal tells. ``parked_due`` is in seconds, None: no message is parked."""

    alive: bool
    dead_sessions: bool
    stale_messages: bool
    parked_due: float | None

    @classmethod
    def of(cls, reply: Sequence[int]) -> News:
        alive, dead, stale, due = reply
        return cls(bool(alive), bool(dead), bool(stale), None if due < 0 else due / 1000)


class Session:
    """Used by the loop alone, but for ``renew`` and ``touch``, which have no state and serve ``keeper``, too."""

    def __init__(self, lease_timeout: float, visibility_timeout: float) -> None:
        self.id = uuid4().hex
        self.held = held_key(self.id)
        self.lease_timeout = lease_timeout
        self.visibility_timeout = visibility_timeout
        self._number = 0  # of the next tag
        self._touch_at = time.monotonic() + self.touch_interval

    @property
    def touch_interval(self) -> float:
        """How often what is held must be renewed, in seconds."""
        return min(self.lease_timeout, self.visibility_timeout) / 3

    def begin(self) -> ScriptCall:
        return BEGIN([SESSIONS], self.id, self._lease_ms)

    def end(self) -> ScriptCall:
        return END([SESSIONS, self.held], self.id)

    def renew(self) -> ScriptCall:
        """Renew the lease; the reply is for ``News.of``."""
        return RENEW([SESSIONS, UNACKED_INDEX, PARKED], self.id, self._lease_ms, int(self.visibility_timeout))

    def touch(self, held: int) -> list[ScriptCall]:
        """Renew each of ``held`` messages."""
        return [
            TOUCH([UNACKED_INDEX, self.held], first, first + TOUCH_CHUNK - 1) for first in range(0, held, TOUCH_CHUNK)
        ]

    def touch_if_due(self, held: int) -> list[ScriptCall]:
        """The same if it is time."""
        if time.monotonic() < self._touch_at:
            return []
        self._touch_at = time.monotonic() + self.touch_interval
        return self.touch(held)

    def take(self, wanted: Sequence[Wanted], room: int, *, strict: bool) -> Take:
        """Take ``room`` messages at most."""
        first, self._number = self._number, self._number + room
        lists = [key for each in wanted for key in queue_keys(each.queue)]
        queues = [
            argument for each in wanted for argument in (each.weight, each.credit, each.most, entry_end(each.queue))
        ]
        call = TAKE(
            [SESSIONS, self.held, UNACKED, UNACKED_INDEX, *lists],
            self.id,
            f"{TAG_PREFIX}{self.id}:",
            first,
            room,
            int(strict),
            *queues,
        )
        return Take(call, self.id, first, wanted, room)

    def ack(self, tags: Sequence[str]) -> ScriptCall:
        """The reply is how many of the tags were there."""
        return ACK([UNACKED, UNACKED_INDEX, self.held], *tags)

    @property
    def _lease_ms(self) -> int:
        return int(self.lease_timeout * 1000)


def promote() -> ScriptCall:
    """Move parked messages that are due to their lists."""
    return PROMOTE([PARKED], PROMOTE_CHUNK, int(PROMOTE_AGAIN * 1000))
