"""The two lines a task leaves in the log: one when it is received, one when it is done."""

from __future__ import annotations

import logging

from greenworker.execution.outcome import (
    Failed,
    Ignored,
    Outcome,
    PutBack,
    Rejected,
    Retried,
    Revoked,
    Succeeded,
    TimedOut,
)
from greenworker.execution.request import Request
from greenworker.protocol.display import bounded_repr, text_of

logger = logging.getLogger("greenworker.task")


class TaskLog:
    """Writes the lines. ``level`` is that of ordinary ones; failures are errors whatever it is.

    Whether anybody reads ordinary lines is asked once, when the consumer starts: silenced lines cost one comparison.
    """

    def __init__(self, level: int) -> None:
        self._level = level
        self.listening = logger.isEnabledFor(level)

    def received(self, request: Request) -> None:
        """A message became a request."""
        if self.listening:
            logger.log(self._level, "Task %s received", request, extra=_names(request))

    def done(self, request: Request, outcome: Outcome, seconds: float) -> None:
        """A request has its outcome; ``seconds`` since its body started."""
        level = self._level_of(outcome)
        if level is not None:
            logger.log(level, "Task %s %s", request, describe(request, outcome, seconds), extra=_names(request))

    def _level_of(self, outcome: Outcome) -> int | None:
        """The level of an outcome's line; None if nobody listens."""
        match outcome:
            case Failed(expected=False) | TimedOut():
                return logging.ERROR
            case Rejected() | PutBack():
                return logging.WARNING
        return self._level if self.listening else None


def _names(request: Request) -> dict[str, str]:
    """What the filter of ``worker.logs`` puts on lines from inside a task: these are written outside of it."""
    return {"task_id": request.message.id, "task_name": request.message.task}


def describe(request: Request, outcome: Outcome, seconds: float) -> str:
    """What came of ``request``, as the rest of a sentence that begins with its name."""
    text: str
    match outcome:
        case Succeeded(value):
            text = f"succeeded in {seconds:.3f}s: {bounded_repr(value)}"
        case Failed(exc, _, True):
            text = f"raised expected {type(exc).__name__}: {text_of(exc)}"
        case Failed(exc, traceback):
            text = f"raised {type(exc).__name__}: {text_of(exc)}\n{traceback}"
        case TimedOut(limit):
            text = f"was ended by its time limit of {limit:g} s"
        case Retried(retry):
            text = f"is tried again: {text_of(retry)}"
        case Rejected(reason, True):
            text = f"rejected its message, which goes back to its queue: {reason}"
        case Rejected(reason):
            text = f"rejected its message: {reason}"
        case Ignored():
            text = "asked to be ignored"
        case Revoked(reason):
            text = f"is not run: {reason}"
        case PutBack():
            text = f"is put back on queue {request.delivery.queue}: the worker stops"
    return text
