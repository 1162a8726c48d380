"""The keys in Redis: kombu's, so that greenworker and Celery share queues, and greenworker's own beside them.

Own keys, all with the prefix ``greenworker:``:

* ``sessions``, a sorted set: a consumer's session -> when its lease runs out (milliseconds of Redis' clock)
* ``held:SESSION``, a sorted set: the tags that it has taken and not settled -> their number, in order of taking
* ``parked``, a sorted set: a queue's key, NUL, a message -> when it is due (milliseconds)
* ``published:ID``, a string: what came of a publish, kept for a while so that a second try does not publish twice
* ``sweeper``, a string: somebody looks for dead consumers' messages just now
"""

from __future__ import annotations

from bisect import bisect

PRIORITY_STEPS = (0, 3, 6, 9)  # kombu's: a list each; 0 is delivered first
SEPARATOR = "\x06\x16"  # kombu's, between parts of a key or of a binding
UNACKED = "unacked"  # a hash: tag -> JSON of [message, exchange, routing key]
UNACKED_INDEX = "unacked_index"  # a sorted set: tag -> when it was taken (seconds)

OWN_PREFIX = "greenworker:"
SESSIONS = f"{OWN_PREFIX}sessions"
PARKED = f"{OWN_PREFIX}parked"
SWEEPER = f"{OWN_PREFIX}sweeper"
HELD_PREFIX = f"{OWN_PREFIX}held:"
TAG_PREFIX = "gw:"  # of tags in ``unacked``, where Celery's are plain UUIDs


def queue_key(queue: str, priority: int = 0) -> str:
    """The list that a message of this priority is put on."""
    step = PRIORITY_STEPS[bisect(PRIORITY_STEPS, priority) - 1]
    return f"{queue}{SEPARATOR}{step}" if step else queue


def queue_keys(queue: str) -> tuple[str, ...]:
    """All lists of a queue, the one that is emptied first first."""
    return tuple(queue_key(queue, step) for step in PRIORITY_STEPS)


def held_key(session: str) -> str:
    """What a session holds."""
    return f"{HELD_PREFIX}{session}"


def tag_of(session: str, number: int) -> str:
    """The tag of the ``number``-th message that a session took: no other take ever has it again."""
    return f"{TAG_PREFIX}{session}:{number}"


def number_of(tag: str) -> int:
    """A tag's number."""
    return int(tag.rpartition(":")[2])


def published_key(publish_id: str) -> str:
    """Where it stands what came of a publish."""
    return f"{OWN_PREFIX}published:{publish_id}"


def bindings_key(exchange: str) -> str:
    """A set: kombu's binding table of an exchange."""
    return f"_kombu.binding.{exchange}"


def permanent_bindings_key(exchange: str) -> str:
    """A set: those of its bindings whose queue does not expire; kombu keeps the table while there are any."""
    return f"_kombu.binding_permanent.{exchange}"


def fanout_channel(database: int, exchange: str, routing_key: str) -> str:
    """The channel on which kombu broadcasts what is sent to a fanout exchange."""
    return f"/{database}.{exchange}" + (f"/{routing_key}" if routing_key else "")
