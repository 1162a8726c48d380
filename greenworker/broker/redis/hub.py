"""A line's place on kombu's Hub, which watches what the line waits on now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenworker.broker.redis.line import Line


class HubPlace:
    """``leave`` is harmless twice, and on a broken line."""

    def __init__(self, hub: Any, line: Line, on_readable: Callable[[], None]) -> None:
        self._hub = hub
        self._line = line
        self._on_readable = on_readable
        self._fd, self._generation = -1, 0

    def follow(self, *, hear: bool) -> None:
        """Have the hub watch what the line waits on now: another socket, maybe, with the number of the last one."""
        fd = self._line.fileno(hear)
        if (fd, self._line.generation) == (self._fd, self._generation):
            return
        self.leave()
        self._hub.add_reader(fd, self._on_readable)
        self._fd, self._generation = fd, self._line.generation

    def call_later(self, delay: float, call: Callable[[], None]) -> None:
        self._hub.call_later(delay, call)

    def leave(self) -> None:
        if self._fd >= 0:  # by its number: a broken line has no socket any more
            self._hub.remove(self._fd)
            self._fd = -1
