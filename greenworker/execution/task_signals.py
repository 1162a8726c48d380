"""The signals of a task's way through the worker: who is told what, and when. One table has those of the outcomes.

``before`` and ``after`` are sent in the task's slot and context, and ``after`` before its result is stored: log lines,
``self.request`` and database connections are the task's own. ``task_postrun`` follows every ``task_prerun``. The time
limits are those of the body: they are over by then.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextvars import copy_context
from typing import Any

from greenworker.app.context import CURRENT
from greenworker.app.hooks import ExceptionInfo
from greenworker.broker.delivery import Delivery
from greenworker.clock import Clock
from greenworker.errors import Ignore, NotRegistered, Reject
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
from greenworker.protocol.message import TaskMessage
from greenworker.protocol.results import FAILURE, IGNORED, PENDING, REJECTED, RETRY, REVOKED, SUCCESS
from greenworker.signals import (
    Signal,
    task_failure,
    task_postrun,
    task_prerun,
    task_received,
    task_rejected,
    task_retry,
    task_revoked,
    task_success,
    task_unknown,
)

logger = logging.getLogger(__name__)

# A task that rejects its message for good has failed, as far as whoever counts failures is concerned. One that is
# put back or ignored has no outcome to tell of.
SIGNALS: Mapping[type[Outcome], Signal] = {
    Succeeded: task_success,
    Failed: task_failure,
    TimedOut: task_failure,
    Rejected: task_failure,
    Retried: task_retry,
    Revoked: task_revoked,
}

STATES: Mapping[type[Outcome], str] = {
    Succeeded: SUCCESS,
    Failed: FAILURE,
    TimedOut: FAILURE,
    Rejected: REJECTED,
    Retried: RETRY,
    Ignored: IGNORED,
    Revoked: REVOKED,
    PutBack: PENDING,  # it runs again, elsewhere
}


def received(request: Request, consumer: Any) -> None:
    """A message became a request. In the loop, with the request as the current task, for log lines."""
    if task_received.receivers:
        copy_context().run(_received, request, consumer)


def _received(request: Request, consumer: Any) -> None:
    CURRENT.set(request)
    _send(task_received, consumer, request=request)


def rejected(delivery: Delivery, exc: Exception, consumer: Any) -> None:
    """No task can be made of a message. In the loop."""
    if task_rejected.receivers:
        _send(task_rejected, consumer, message=delivery.envelope, exc=exc)


def unknown(message: TaskMessage, delivery: Delivery, exc: NotRegistered, consumer: Any) -> None:
    """There is no task of the message's name. In a slot."""
    if task_unknown.receivers:
        _send(task_unknown, consumer, message=delivery.envelope, exc=exc, name=message.task, id=message.id)


def before(request: Request) -> None:
    """The body is about to run."""
    if task_prerun.receivers:
        _send(task_prerun, request.task, **_call_of(request), task=request.task)


def after(request: Request, outcome: Outcome, clock: Clock) -> None:
    """The body and the task's hooks are through."""
    _tell(request, outcome, clock)
    if task_postrun.receivers:
        state, value = _end_of(outcome)
        _send(task_postrun, request.task, **_call_of(request), task=request.task, retval=value, state=state)


def unwanted(request: Request, outcome: Outcome, clock: Clock) -> None:
    """The request is not run. In a slot, whose context is its own."""
    if task_revoked.receivers:
        CURRENT.set(request)
        _tell(request, outcome, clock)


def _tell(request: Request, outcome: Outcome, clock: Clock) -> None:
    """The signal of the outcome."""
    signal = SIGNALS.get(type(outcome))
    if signal is None or not signal.receivers:
        return
    match outcome:
        case Succeeded(value):
            _send(signal, request.task, result=value, runtime=clock.monotonic() - request.started_at)
        case Failed() | TimedOut() | Rejected(requeue=False):
            exc = _exception_of(outcome)
            info = ExceptionInfo(exc, "" if isinstance(outcome, Rejected) else outcome.traceback)
            call = _call_of(request)
            _send(signal, request.task, **call, exception=exc, traceback=exc.__traceback__, einfo=info)
        case Retried(retry, trace):
            info = ExceptionInfo(retry, trace)
            _send(signal, request.task, request=request.task_context(), reason=retry, einfo=info)
        case Revoked(reason):
            _send(
                signal,
                request.task,
                request=request.task_context(),
                terminated=reason == "terminated",
                signum=None,
                expired=reason == "expired",
            )


def _call_of(request: Request) -> dict[str, Any]:
    message = request.message
    return {"task_id": message.id, "args": message.args, "kwargs": message.kwargs}


def _exception_of(outcome: Failed | TimedOut | Rejected) -> BaseException:
    return Reject(outcome.reason, outcome.requeue) if isinstance(outcome, Rejected) else outcome.error()


def _end_of(outcome: Outcome) -> tuple[str, Any]:
    """State and ``retval`` of ``task_postrun``: what was returned, else the exception."""
    state = STATES[type(outcome)]
    match outcome:
        case Succeeded(value):
            return state, value
        case Failed() | TimedOut() | Rejected():
            return state, _exception_of(outcome)
        case Retried(retry):
            return state, retry
        case Ignored():
            return state, Ignore()
    return state, None


def _send(signal: Signal, sender: Any, **arguments: Any) -> None:
    try:
        signal.send(sender, **arguments)
    except BaseException:  # SystemExit, a timeout that the receiver left running: neither slot nor loop may end by it
        logger.exception("a receiver of the signal %s ended it; those after it were not called", signal.name)
