"""Dead-letter queues as anybody reads them: with plain kombu, whatever the broker."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import kombu

import greenworker.broker.sqlite  # noqa: F401 - registers the embedded broker's transport with kombu
from tests.support.worker import wait_until


@dataclass(frozen=True)
class Letter:
    """A dead letter, not decoded: many could not be."""

    body: bytes
    headers: dict[str, Any]
    content_type: str | None

    @property
    def payload(self) -> Any:
        return json.loads(self.body)


def dead_letters(url: str, queue: str = "celery") -> list[Letter]:
    """Takes all messages off the dead-letter queue of ``queue``."""
    letters = []
    with kombu.Connection(url) as connection, connection.channel() as channel:
        try:
            while (message := channel.basic_get(f"{queue}.dead", no_ack=True)) is not None:
                body = message.body if isinstance(message.body, bytes) else message.body.encode()
                letters.append(Letter(body, dict(message.headers), message.content_type))
        except connection.channel_errors:
            pass  # there is no such queue yet: the first dead letter makes it
    return letters


def wait_dead_letters(url: str, count: int, queue: str = "celery", timeout: float = 15.0) -> list[Letter]:
    """The next ``count`` dead letters of ``queue``. Fails when that many, or more, do not come."""
    letters: list[Letter] = []

    def complete() -> bool:
        letters.extend(dead_letters(url, queue))
        return len(letters) >= count

    wait_until(complete, timeout, f"{count} dead letters of {queue}")
    assert len(letters) == count, f"more than {count}: {[letter.headers for letter in letters]}"
    return letters
