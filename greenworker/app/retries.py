"""Retries, as pure functions: when the next try is due, what its message is, and whether an exception asks for one.

The worker publishes what ``retry_message`` returns before it acks the message of the try that ended, so a retry is lost
under no circumstances; that is why ``Task.retry`` only raises, and does not publish as Celery's does.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from greenworker.app.times import due
from greenworker.errors import Ignore, MaxRetriesExceededError, Reject, Retry
from greenworker.protocol.message import TaskMessage

if TYPE_CHECKING:
    from greenworker.app.context import HasContext, TaskContext
    from greenworker.app.task import Task

HIGHEST_POWER = 64  # 2 ** 64 seconds is above any maximum; 2 ** retries would grow past what a float holds

KEPT_UNLESS_GIVEN = ("time_limit", "soft_time_limit", "ignore_result")

Draw = Callable[[float, float], float]  # random.uniform, or a test's own


def backoff(retries: int, factor: float, maximum: float, jitter: bool, uniform: Draw) -> float:
    """Seconds until the next try: ``factor * 2 ** retries``, at most ``maximum``.

    With jitter, a number between 0 and that, drawn by ``uniform(low, high)``.
    """
    delay = max(0.0, min(maximum, factor * 2.0 ** min(retries, HIGHEST_POWER)))
    return uniform(0.0, delay) if jitter else delay


def retry_message(message: TaskMessage, retry: Retry, now: datetime) -> tuple[TaskMessage, float]:
    """The message of the next try of ``message``, and the seconds until it is due.

    The id, the headers, root and parent, the limits and everything else stay, unless the retry gives its own; ``now``
    is an aware UTC datetime.
    """
    given = retry.signature
    eta = due(retry.when, now)
    changes: dict[str, Any] = {key: given[key] for key in KEPT_UNLESS_GIVEN if key in given}
    if given.get("priority") is not None:
        changes["priority"] = given["priority"]
    if "expires" in given:
        changes["expires"] = due(given["expires"], now)
    if given.get("headers"):
        changes["headers"] = {**message.headers, **given["headers"]}
    args, kwargs = given.get("args", message.args), given.get("kwargs", message.kwargs)
    if args is not message.args or kwargs is not message.kwargs:
        changes |= {"args": args, "kwargs": kwargs, "argsrepr": None, "kwargsrepr": None}
    next_try = replace(message, retries=message.retries + 1, eta=eta, **changes)
    return next_try, max(0.0, (eta - now).total_seconds()) if eta is not None else 0.0


def should_autoretry(task: Task, exc: BaseException) -> bool:
    """Whether ``autoretry_for`` asks for a retry after ``exc``; never after what a task raises to ask for something."""
    if isinstance(exc, (Retry, Ignore, Reject, *task.dont_autoretry_for)):
        return False
    return isinstance(exc, task.autoretry_for)


def autoretry(task: Task, context: TaskContext, exc: BaseException) -> NoReturn:
    """Raises the Retry that ``autoretry_for`` asks for, or ``exc`` itself when the retries are used up.

    Runs where ``context`` is current.
    """
    options = dict(task.retry_kwargs)
    if task.retry_backoff:
        options["countdown"] = backoff(
            context.retries,
            max(1.0, float(task.retry_backoff)),
            task.retry_backoff_max,
            task.retry_jitter,
            random.uniform,
        )
    if context.max_retries is not None:
        options["max_retries"] = context.max_retries
    raise task.retry(exc=exc, **options)


def outcome_of(task: Task, run: HasContext, exc: BaseException) -> BaseException:
    """What ``exc``, raised by the body of ``run``, comes to: the Retry that ``autoretry_for`` asks for, the reason of
    one that nothing is left for, or ``exc`` itself.
    """
    if should_autoretry(task, exc):
        try:
            autoretry(task, run.task_context(), exc)
        except BaseException as decided:  # the Retry, or the same exception when the retries are used up
            exc = decided
    if isinstance(exc, Retry) and not exc.signature:  # raised without Task.retry, which counts by itself
        context = run.task_context()
        if task.max_retries is not None and context.retries >= task.max_retries:
            reason = f"Can't retry {context.task}[{context.id}]: max_retries is {task.max_retries}"
            return exc.exc or MaxRetriesExceededError(reason)
    return exc


def inherited_arguments(
    run: Callable[..., Any],
    old_args: Sequence[Any],
    old_kwargs: Mapping[str, Any],
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments of the next try: those given to ``retry``, the rest from this try.

    A parameter that was given by position and now comes by name (or the other way round) is given once, the new value.
    """
    if args is None and kwargs is None:
        return old_args, old_kwargs
    if args is not None and kwargs is not None:
        return args, kwargs
    signature = inspect.signature(run)
    if args is None:
        return _with_new_names(signature, old_args, dict(kwargs or {}))
    positional = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    taken = {parameter.name for parameter in positional[: len(args)] if parameter.kind is not parameter.POSITIONAL_ONLY}
    return args, {name: value for name, value in old_kwargs.items() if name not in taken}


def _with_new_names(
    signature: inspect.Signature, old_args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    try:
        bound = signature.bind_partial(*old_args)
    except TypeError:
        return old_args, kwargs  # too many for the function: the next try fails with Python's own words
    for name in list(kwargs):
        if name in bound.arguments and signature.parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            bound.arguments[name] = kwargs.pop(name)
    return bound.args, {**bound.kwargs, **kwargs}
