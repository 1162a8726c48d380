"""What follows a task: on success its links and the rest of its chain, on failure its errbacks. As calls, not yet sent.

The rules are Celery's. A link gets the result as its first argument. An errback that is registered here and takes more
than one argument is called where the task failed, with ``(request, exc, traceback)``; any other is sent as a task, with
the failed task's id; one with ``bind=True`` is always sent, so that it can retry.

A signature that is none, or of a kind that is not here (chord, map), costs a line in the log and nothing else: the task
whose message has it did run, and its outcome stands.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greenworker.app.signature import MalformedSignatureError, Signature, read_signature
from greenworker.protocol.message import TaskMessage

if TYPE_CHECKING:
    from greenworker.app.app import App
    from greenworker.app.context import TaskContext

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Next:
    """A task to send: ``args`` go before the signature's own, ``options`` over them."""

    signature: Signature
    args: tuple[Any, ...]
    options: dict[str, Any]


def after_success(app: App, message: TaskMessage, value: Any) -> list[Next]:
    """The links of ``message``, whose task returned ``value``, and the next task of its chain."""
    family = _family(message)
    following = [Next(link, (value,), family) for link in signatures(app, message, message.callbacks, "link")]
    if message.chain:
        rest = {**family, "chain": message.chain[:-1]}
        following += [Next(step, (value,), rest) for step in signatures(app, message, message.chain[-1:], "chain")]
    if message.chord:
        logger.error(
            "Task %s[%s] is part of a chord, and chords are not here: its result is kept, but nobody sends the chord's "
            "body %s",
            message.task,
            message.id,
            message.chord.get("task"),
        )
    return following


def after_failure(app: App, message: TaskMessage) -> tuple[list[Next], list[Signature]]:
    """The errbacks of ``message``: those to send, and those to call here (``call``)."""
    errbacks = signatures(app, message, message.errbacks, "link_error")
    here = [errback for errback in errbacks if _is_called_here(app, errback)]
    family = _family(message)
    return [Next(each, (message.id,), family) for each in errbacks if each not in here], here


def call(app: App, errback: Signature, context: TaskContext, exc: BaseException, traceback: str | None) -> None:
    """Call ``errback`` about the failed run of ``context``. What it raises is logged, and changes nothing."""
    try:
        outcome = errback(context, exc, traceback)
        if inspect.iscoroutine(outcome):
            app.run_coroutine(outcome)
    except Exception:
        logger.exception("Task %s[%s]: its link_error %s raised", context.task, context.id, errback.task)


def signatures(app: App, message: TaskMessage, links: Iterable[Any] | None, what: str) -> list[Signature]:
    """The single tasks that ``links`` stand for; what stands for none is logged."""
    found: list[Signature] = []
    for link in links or ():
        try:
            found += _single_tasks(read_signature(link, app), app)
        except MalformedSignatureError as exc:
            logger.error("Task %s[%s]: its %s is not sent: %s", message.task, message.id, what, exc)
    return found


def _single_tasks(signature: Signature, app: App) -> Iterator[Signature]:
    """The tasks to send for a signature: itself; the members of a group; the first of a chain, with the rest in it."""
    match signature.subtask_type:
        case None:
            yield signature
        case "group":
            for member in _tasks_in(signature):
                yield from _single_tasks(read_signature(member, app), app)
        case "chain":
            first, *rest = _tasks_in(signature)
            for task in _single_tasks(read_signature(first, app), app):
                yield task.set(chain=[*task.options.get("chain", ()), *reversed(rest)])
        case kind:
            raise MalformedSignatureError(f"{kind}s are not here ({signature.task})")


def _tasks_in(canvas: Signature) -> list[Any]:
    tasks = canvas.kwargs.get("tasks")
    if not isinstance(tasks, (list, tuple)) or not tasks:
        raise MalformedSignatureError(f"a {canvas.subtask_type}'s tasks: expected a list of signatures, got {tasks!r}")
    return list(tasks)


def _family(message: TaskMessage) -> dict[str, Any]:
    return {"parent_id": message.id, "root_id": message.root_id or message.id}


def _is_called_here(app: App, errback: Signature) -> bool:
    task = app.tasks.find(errback.task)
    if task is None or task.bind:
        return False
    run: Any = task.run
    if not errback.immutable:
        run = functools.partial(run, *errback.args, **errback.kwargs)  # the failure fills what is left
    try:
        kinds = [parameter.kind for parameter in inspect.signature(run).parameters.values()]
    except (TypeError, ValueError):
        return False  # it does not take its own arguments: sent, it fails with Python's own words
    by_position = kinds.count(inspect.Parameter.POSITIONAL_ONLY) + kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return by_position > 1 or inspect.Parameter.VAR_POSITIONAL in kinds
