"""Pause: no tasks are taken while there is no room for their results; what waits here must have a bound.

The queues are not consumed for that time; what was delivered stays ours. A smaller prefetch would not do: tasks that
are acked early hold none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from greenworker.broker.delivery import QueueSpec
from greenworker.broker.source import Source


class Pause:
    """Used by the loop alone."""

    def __init__(self, queues: Mapping[str, QueueSpec], wanted: Callable[[], bool]) -> None:
        """``queues`` are those that are consumed, as they change; ``wanted`` is asked at every turn."""
        self._queues = queues
        self._wanted = wanted
        self._paused: list[QueueSpec] = []

    @property
    def paused(self) -> bool:
        """Whether nothing is consumed at the moment."""
        return bool(self._paused)

    def begin(self) -> None:
        """Consuming has started, over a new connection."""
        self._paused = []

    def apply(self, source: Source) -> None:
        """Pause ``source``, or let it go on. Raises ConnectionLostError, and BrokerError for a queue that is gone."""
        wanted = self._wanted()
        if wanted and not self._paused:
            self._paused = list(self._queues.values())
            for queue in self._paused:
                source.cancel_queue(queue.name)
        elif not wanted and self._paused:
            for queue in self._paused:
                source.add_queue(queue)
            self._paused = []
