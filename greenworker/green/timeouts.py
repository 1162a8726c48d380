"""Timeouts that a task started and left running: they must not hit the next task on the same greenlet.

``gevent.Timeout`` and ``eventlet.Timeout`` raise in the greenlet that started them, whatever it does by then. So each
is noted on that greenlet, and what is still pending when the job is over is cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

TIMEOUTS = "greenworker_timeouts"  # the key in a greenlet's ``__dict__``
SWEEP_ABOVE = 32  # noted timeouts: every wait of a socket that has a timeout starts one, and nearly all are over soon


def noting_start(start: Callable[[Any], Any], current: Callable[[], Any]) -> Callable[[Any], Any]:
    """``Timeout.start`` that notes the timeout on the ``current()`` greenlet."""

    def noting(timeout: Any) -> Any:
        started = start(timeout)
        noted = current().__dict__.setdefault(TIMEOUTS, [])
        if len(noted) > SWEEP_ABOVE:
            noted[:] = [each for each in noted if each.pending]
        noted.append(timeout)
        return started

    noting.greenworker_notes = True  # type: ignore[attr-defined]
    return noting


def cancel_pending(timeouts: Iterable[Any]) -> None:
    """Cancel those that have not fired."""
    for timeout in timeouts:
        if timeout.pending:
            timeout.cancel()
