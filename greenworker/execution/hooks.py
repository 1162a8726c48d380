"""Calls a task's hooks around its body, in its slot and context.

Rules this file keeps:

* What a hook raises is logged and changes nothing: the outcome is the body's, and its message goes its way.
* The body's time limits do not count here. A hook that hangs is ended after HOOK_TIMEOUT, where the pool can interrupt
  its jobs; so is one that runs when a shutdown has waited long enough.
* Called for tasks alone whose class overrides a hook: whoever calls asks ``task.hooks`` first.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any

from greenworker.app import hooks
from greenworker.app.hooks import ExceptionInfo, HookCall
from greenworker.clock import Timer
from greenworker.errors import StopTask, TimeLimitExceeded
from greenworker.execution.bounded import Bounded, OvertimeError, let_throws_pass
from greenworker.execution.coroutines import CoroutineRunner
from greenworker.execution.outcome import Failed, Outcome, Retried, Succeeded, TimedOut
from greenworker.execution.pool import Run
from greenworker.execution.request import Request
from greenworker.protocol.results import FAILURE, RETRY, SUCCESS

logger = logging.getLogger(__name__)

HOOK_TIMEOUT = 30.0  # seconds; a hook leaves word, it does not work


class HookCaller:
    """Calls the hooks of requests. Its methods never raise."""

    def __init__(
        self, timer: Timer, coroutines: CoroutineRunner, *, limits: bool, timeout: float = HOOK_TIMEOUT
    ) -> None:
        self._bounded = Bounded(timer, timeout, limits=limits)
        self._coroutines = coroutines

    def before(self, request: Request, run: Run) -> None:
        """The body is about to run."""
        self._call_all(hooks.before(request.task, request.message), request, run)

    def after(self, request: Request, run: Run, outcome: Outcome) -> None:
        """The body is over."""
        let_throws_pass()  # a limit may have fired as the body ended
        ended = _ending(outcome)
        if ended is not None:
            self._call_all(hooks.after(request.task, request.message, *ended), request, run)

    def _call_all(self, calls: Iterable[HookCall], request: Request, run: Run) -> None:
        for name, call in calls:
            try:
                self._bounded.call(lambda call=call: self._call(call), run)  # type: ignore[misc]
            except OvertimeError as exc:
                logger.error("Task %s: its hook %s was ended: %s", request, name, exc)
            except StopTask:
                logger.warning("Task %s: its hook %s was ended: the worker stops", request, name)
            except BaseException:  # SystemExit and the like, too: the task has its outcome
                logger.exception("Task %s: its hook %s failed", request, name)

    def _call(self, call: Callable[[], Any]) -> None:
        returned = call()
        if inspect.iscoroutine(returned):
            self._coroutines.run(returned)


def _ending(outcome: Outcome) -> tuple[str, Any, ExceptionInfo | None] | None:
    """State, value and exception as hooks are told them; None for an outcome that they are not told of."""
    match outcome:
        case Succeeded(value):
            return SUCCESS, value, None
        case Failed(exc, trace):
            return FAILURE, exc, ExceptionInfo(exc, trace)
        case TimedOut(limit, trace):
            late = TimeLimitExceeded(limit)
            return FAILURE, late, ExceptionInfo(late, trace)
        case Retried(retry, trace):
            return RETRY, retry.exc, ExceptionInfo(retry.exc or retry, trace)
    return None
