"""Code of the user's that runs in a task's slot beside the body, and must not hold the slot for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from greenworker.clock import Timer
from greenworker.execution.pool import Run


class OvertimeError(BaseException):
    """Thrown into a hook that hangs. A BaseException, so that an ``except Exception`` in it does not swallow it."""


class Bounded:
    """Calls functions in a slot, each for ``timeout`` seconds at most.

    With ``limits`` False the pool cannot interrupt a running job, and a call ends when it ends.
    """

    def __init__(self, timer: Timer, timeout: float, *, limits: bool) -> None:
        self._timer = timer
        self._timeout = timeout
        self._limits = limits

    def call(self, function: Callable[[], Any], run: Run) -> Any:
        """What ``function`` returns. Raises what it raises, OvertimeError when its time is up, and StopTask when the
        worker stops and does not wait any longer.
        """
        if not self._limits:
            return function()
        late = OvertimeError(f"not done in {self._timeout:g} s")

        def throw() -> None:
            run.throw(late)

        entry = self._timer.call_later(self._timeout, throw)
        run.interruptible = True
        try:
            return function()
        finally:
            run.interruptible = False
            entry.cancel()
            let_throws_pass()


def let_throws_pass() -> None:
    """One turn of the loop while nothing can be thrown into the run: what is on its way to what ran before is dropped,
    and does not hit what runs next.
    """
    time.sleep(0)
