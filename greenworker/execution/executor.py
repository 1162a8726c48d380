"""Runs the body of one request in its slot and returns what came of it.

The rule this file keeps: an interruption (time limit, put-back, revoke) can reach the body alone. ``run.interruptible``
is set right before the body and cleared right after it, by the slot itself, so nothing is ever thrown into settlement.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from greenworker.app.context import CURRENT
from greenworker.app.retries import outcome_of
from greenworker.clock import Clock, Timer, TimerEntry
from greenworker.errors import Ignore, Reject, Retry, SoftTimeLimitExceeded, StopTask
from greenworker.execution import coroutines, task_signals
from greenworker.execution.coroutines import CoroutineRunner
from greenworker.execution.hooks import HookCaller
from greenworker.execution.outcome import Failed, Ignored, Outcome, Rejected, Retried, Succeeded, TimedOut
from greenworker.execution.pool import Run
from greenworker.execution.request import Request
from greenworker.protocol.display import text_of

logger = logging.getLogger(__name__)

_EVENT_LOOP_FILE = str(Path(__file__).with_name("event_loop.py"))  # by its name: it imports asyncio
_OWN_FILES = frozenset({__file__, coroutines.__file__, _EVENT_LOOP_FILE})


class Executor(Protocol):
    """What a slot calls for each request; another app's executor can stand in."""

    def execute(self, request: Request, run: Run) -> Outcome:
        """Run the body under its limits. Never raises: whatever the body does is an Outcome."""


class TaskExecutor:
    """Executes tasks of a greenworker App."""

    def __init__(self, hostname: str, timer: Timer, clock: Clock, coroutines: CoroutineRunner, *, limits: bool) -> None:
        self._hostname = hostname
        self._timer = timer
        self._clock = clock
        self._coroutines = coroutines
        self._hooks = HookCaller(timer, coroutines, limits=limits)
        self._limits = limits  # whether the pool can interrupt a running body

    def execute(self, request: Request, run: Run) -> Outcome:
        request.hostname = self._hostname
        CURRENT.set(request)  # the slot's contextvars.Context is this job's own
        task_signals.before(request)
        if request.task.hooks:
            self._hooks.before(request, run)
        limits = self._start_limits(request, run)
        try:
            outcome = self._perform(request, run)
        finally:
            for entry in limits:
                entry.cancel()
        if request.task.hooks:
            self._hooks.after(request, run, outcome)
        task_signals.after(request, outcome, self._clock)
        return outcome

    def _perform(self, request: Request, run: Run) -> Outcome:
        if request.stopping is not None:  # the worker stopped while a hook ran before the body
            return request.stopping
        try:
            run.interruptible = True
            try:
                value = self._body(request)
            finally:
                run.interruptible = False
            outcome: Outcome = Succeeded(value)
        except BaseException as exc:  # a slot survives whatever a body raises, SystemExit and GreenletExit included
            outcome = self._outcome_of(exc, request)
        if request.stopping is not None and isinstance(run.interrupted, StopTask):
            # The body was interrupted for good. Whatever it did with that, returning or raising, this is its outcome.
            return _with_place(request.stopping, run.interrupted)
        return outcome

    def _body(self, request: Request) -> Any:
        task, message = request.task, request.message
        body = task.__call__ if task.has_own_call else task.run  # looked up now: tests put others in place of ``run``
        if task.is_coroutine:
            return self._coroutines.run(body(*message.args, **message.kwargs))
        args = message.args
        if not message.kwargs and len(args) <= 1:
            # Without a star Python calls in the C frame it is in: a sleeping task keeps that much less memory.
            return body(args[0]) if args else body()
        return body(*args, **message.kwargs)

    def _outcome_of(self, exc: BaseException, request: Request) -> Outcome:
        task = request.task
        exc = outcome_of(task, request, exc)
        if isinstance(exc, Retry):
            reason = exc.exc  # may never have been raised: then the retry alone knows its place
            return Retried(exc, traceback_of(exc if reason is None or reason.__traceback__ is None else reason))
        if isinstance(exc, Reject):
            return Rejected(text_of(exc.reason), exc.requeue)
        if isinstance(exc, Ignore):
            return Ignored()
        return Failed(exc, traceback_of(exc), expected=isinstance(exc, task.throws))

    def _start_limits(self, request: Request, run: Run) -> Sequence[TimerEntry]:
        """Not a context manager: its generator would cost each of 10,000 sleeping tasks 0.8 KB, limits or none."""
        soft, hard = request.soft_time_limit, request.time_limit
        if not self._limits or (soft is None and hard is None):
            return ()
        entries: list[TimerEntry] = []
        if soft is not None:
            entries.append(self._timer.call_later(soft, lambda: self._soft_limit(request, run, soft)))
        if hard is not None:
            entries.append(self._timer.call_later(hard, lambda: self._hard_limit(request, run, hard)))
        return entries

    @staticmethod
    def _soft_limit(request: Request, run: Run, limit: float) -> None:
        if run.throw(SoftTimeLimitExceeded(limit)):
            logger.info("Task %s has reached its soft time limit of %g s", request, limit)

    @staticmethod
    def _hard_limit(request: Request, run: Run, limit: float) -> None:
        interrupt(request, run, TimedOut(limit))


def interrupt(request: Request, run: Run, outcome: Outcome) -> bool:
    """End the body of ``request`` for good, with ``outcome``; False if the body is over or cannot be reached."""
    request.stopping = outcome
    return run.throw(StopTask(outcome))


def traceback_of(exc: BaseException) -> str:
    """The traceback of ``exc`` as stored in results, without the worker's own frames above the task's."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename in _OWN_FILES:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(exc), exc, trace))


def _with_place(outcome: Outcome, interruption: BaseException) -> Outcome:
    """A time-out tells where in the task the time ran out."""
    return replace(outcome, traceback=traceback_of(interruption)) if isinstance(outcome, TimedOut) else outcome
