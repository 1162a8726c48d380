"""AMQP's topic patterns: words between dots, ``*`` stands for one word, ``#`` for none or more."""

from __future__ import annotations

import functools
import re


def topic_matches(pattern: str, routing_key: str) -> bool:
    """Whether a binding's ``pattern`` takes a message of this routing key."""
    return _compiled(pattern).fullmatch("." + routing_key) is not None


@functools.lru_cache(maxsize=1000)
def _compiled(pattern: str) -> re.Pattern[str]:
    # each word is matched together with the dot before it, so that "#" can stand for no word at all
    parts = {"*": r"\.[^.]*", "#": r"(?:\.[^.]*)*?"}
    return re.compile("".join(parts.get(word, r"\." + re.escape(word)) for word in pattern.split(".")), re.DOTALL)
