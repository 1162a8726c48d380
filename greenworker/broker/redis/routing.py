"""Exchanges on Redis: kombu's binding tables, and which queues a message goes to.

A binding is a member of its exchange's set: routing key, pattern, queue. The pattern, a regular expression, is there
for topic exchanges alone; whether an exchange without patterns is a direct or a fanout one, only its declarer knows.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from kombu.transport.virtual.exchange import TopicExchange

from greenworker.broker.delivery import QueueSpec
from greenworker.broker.redis.keys import SEPARATOR, bindings_key, permanent_bindings_key
from greenworker.broker.redis.scripts import BIND, ScriptCall

FANOUT = "fanout"


def bind_call(queue: QueueSpec) -> ScriptCall | None:
    """The call that binds ``queue`` to its exchange, None where it is the default one; a queue itself needs no
    declaring.
    """
    if not queue.exchange or queue.exchange_type == FANOUT:
        return None
    routing_key = queue.routing_key or queue.name
    pattern = topic_pattern(routing_key) if queue.exchange_type == "topic" else ""
    member = SEPARATOR.join((routing_key, pattern, queue.name))
    return BIND([bindings_key(queue.exchange), permanent_bindings_key(queue.exchange)], member)


def topic_pattern(routing_key: str) -> str:
    """kombu's regular expression for a topic binding."""
    return str(TopicExchange(None).key_to_pattern(routing_key))  # type: ignore[no-untyped-call]


def matching_queues(bindings: Iterable[bytes], routing_key: str) -> list[str]:
    """The queues that an exchange with these bindings gives a message of ``routing_key`` to."""
    queues: dict[str, None] = {}
    for binding in bindings:
        key, pattern, queue = binding.decode().split(SEPARATOR)
        if _compiled(pattern).match(routing_key) if pattern else key == routing_key:
            queues[queue] = None
    return sorted(queues)


@functools.lru_cache(maxsize=1000)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
