"""Tasks run here and now, without broker and worker: ``Task.apply``, and everything sent under ``always_eager``.

Retries are run at once, without their wait. Time limits, ETA and expiry do not count. Links follow as in a worker, sent
with ``apply_async``: under ``always_eager`` that runs them here, too. Hooks and the signals of a run (task_prerun,
task_success, task_failure, task_retry, task_postrun) are called as in a worker. As in Celery.
"""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from greenworker.app import hooks, links
from greenworker.app.context import TaskContext, running
from greenworker.app.hooks import ExceptionInfo, HookCall
from greenworker.app.result import AsyncResult
from greenworker.app.retries import outcome_of, retry_message
from greenworker.errors import Ignore, Reject, Retry
from greenworker.protocol.message import TaskMessage
from greenworker.protocol.results import FAILURE, IGNORED, PENDING, REJECTED, RETRY, SUCCESS, ResultMeta
from greenworker.signals import task_failure, task_postrun, task_prerun, task_retry, task_success

if TYPE_CHECKING:
    from greenworker.app.app import App
    from greenworker.app.task import Task


class EagerResult(AsyncResult):
    """The result of a task that ran here: it is there already, and no store is asked for it."""

    def __init__(self, app: App, meta: ResultMeta) -> None:
        super().__init__(meta.task_id, app)
        self._final: ResultMeta = meta

    def __repr__(self) -> str:
        return f"<EagerResult {self.id}>"

    def ready(self) -> bool:
        """True: it has ended."""
        return True

    def forget(self) -> None:
        """Nothing is kept anywhere."""


def run(task: Task, message: TaskMessage, *, throw: bool) -> EagerResult:
    """Run ``task`` on ``message``, its retries too; with ``throw``, a task that fails raises here what it raised."""
    while True:
        context = _context(task, message)
        with running(context):
            state, value = _one_try(task, context, message)
        if state != RETRY:
            break
        message, _ = retry_message(message, value, datetime.now(UTC))
    if state == FAILURE and throw:
        raise value
    result = None if state in {IGNORED, REJECTED} else value
    trace = _info(value).traceback if state == FAILURE else None
    return EagerResult(task.app, ResultMeta.of(message, state, result, traceback=trace, date_done=datetime.now(UTC)))


def _one_try(task: Task, context: TaskContext, message: TaskMessage) -> tuple[str, Any]:
    """One run of the body, with all that is called around it; its state, and what it returned or raised."""
    task_prerun.send(task, **_call(message), task=task)
    state, value = PENDING, None  # what task_postrun tells of a run that a hook or Ctrl-C ended
    try:
        _call_hooks(hooks.before(task, message))
        began = time.monotonic()
        state, value = _perform(task, context)
        _follow(task, context, message, state, value, runtime=time.monotonic() - began)
    finally:
        task_postrun.send(task, **_call(message), task=task, retval=value, state=state)
    return state, value


def _perform(task: Task, context: TaskContext) -> tuple[str, Any]:
    body = task.__call__ if task.has_own_call else task.run
    try:
        value = body(*context.args, **context.kwargs)
        return SUCCESS, task.app.run_coroutine(value) if task.is_coroutine else value
    except Exception as raised:
        exc = outcome_of(task, context, raised)
    asked = {Retry: RETRY, Ignore: IGNORED, Reject: REJECTED}
    return next((state for kind, state in asked.items() if isinstance(exc, kind)), FAILURE), exc


def _follow(task: Task, context: TaskContext, message: TaskMessage, state: str, value: Any, *, runtime: float) -> None:
    """Links or errbacks, then the hooks, then the signal of a run that ended in ``state``."""
    if state == SUCCESS:
        _send_links(task.app, message, value)
        _call_hooks(hooks.after(task, message, SUCCESS, value, None))
        task_success.send(task, result=value, runtime=runtime)
    elif state == RETRY:
        info = _info(value.exc or value)
        _call_hooks(hooks.after(task, message, RETRY, value.exc, info))
        task_retry.send(task, request=context, reason=value, einfo=ExceptionInfo(value, info.traceback))
    elif state == FAILURE:
        info = _info(value)
        _run_errbacks(task.app, context, message, value, info.traceback)
        _call_hooks(hooks.after(task, message, FAILURE, value, info))
        task_failure.send(task, **_call(message), exception=value, traceback=value.__traceback__, einfo=info)


def _context(task: Task, message: TaskMessage) -> TaskContext:
    delivery_info = {"is_eager": True, "exchange": None, "routing_key": None, "priority": message.priority}
    ignore_result = task.ignore_result if message.ignore_result is None else message.ignore_result
    context = TaskContext.of(
        message, hostname=socket.gethostname(), delivery_info=delivery_info, ignore_result=ignore_result
    )
    context.is_eager = True
    return context


def _call(message: TaskMessage) -> dict[str, Any]:
    """What signals say of the call."""
    return {"task_id": message.id, "args": message.args, "kwargs": message.kwargs}


def _send_links(app: App, message: TaskMessage, value: Any) -> None:
    for following in links.after_success(app, message, value):
        following.signature.apply_async(following.args, **following.options)


def _run_errbacks(app: App, context: TaskContext, message: TaskMessage, exc: BaseException, traceback: str) -> None:
    to_send, to_call = links.after_failure(app, message)
    for errback in to_call:
        links.call(app, errback, context, exc, traceback)
    for following in to_send:
        following.signature.apply(following.args, **following.options)


def _info(exc: BaseException) -> ExceptionInfo:
    return ExceptionInfo(exc, "".join(traceback.format_exception(exc)))


def _call_hooks(calls: Iterable[HookCall]) -> None:
    """What a hook raises comes out here, as in Celery: there is a caller to tell, and nothing that could be lost."""
    for hook in calls:
        hook.call()
