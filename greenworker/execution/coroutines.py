"""The way to the event loop (event_loop.py) on which bodies of ``async def`` tasks run.

A worker whose tasks need none never imports asyncio, which costs 1.3 MB.
"""

from __future__ import annotations

import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from greenworker.green.base import Library

if TYPE_CHECKING:
    from greenworker.execution.event_loop import EventLoop


class CoroutineRunner:
    """Runs coroutines for any greenlet of the hub that made it (or any thread, in pools without green threads)."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._guard = threading.Lock()
        self._loop: EventLoop | None = None  # made for the first coroutine

    def run(self, body: Coroutine[Any, Any, Any]) -> Any:
        """Run ``body`` to its end; returns what it returns and raises what it raises. See ``EventLoop.run``."""
        try:
            loop = self._loop or self._make_loop()
        except BaseException:  # a limit meanwhile
            body.close()
            raise
        return loop.run(body)

    def stop(self) -> None:
        """End the loop. Harmless before the first ``run`` and twice."""
        with self._guard:
            loop = self._loop
        if loop is not None:
            loop.stop()

    def _make_loop(self) -> EventLoop:
        from greenworker.execution.event_loop import EventLoop

        with self._guard:
            self._loop = self._loop or EventLoop(self._library)
            return self._loop
