"""Many tasks sent together: a chunk of them shares one round trip to the broker, in place of one each.

At most a chunk is in memory at a time, so that the calls may come out of a generator without end.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from greenworker.app.signature import Signature
from greenworker.errors import BulkError, PublishError

if TYPE_CHECKING:
    from greenworker.app.app import App
    from greenworker.app.result import AsyncResult
    from greenworker.app.task import Task

CHUNK = 500  # messages in one round trip: ten times as many are not sent faster, and hold ten times the memory

Call = Mapping[str, Any] | Sequence[Any]  # a signature, or (task, args, kwargs, options), of which the task is enough


def send_all(app: App, calls: Iterable[Call]) -> list[AsyncResult]:
    """Send all ``calls``, in order. See ``App.bulk``."""
    sent: list[AsyncResult] = []
    for chunk in _chunks(calls):
        if app.settings.task.always_eager:
            sent += [app.send_task(name, args, kwargs, **options) for name, args, kwargs, options in chunk]
        else:
            sent += _send_chunk(app, chunk, sent)
    return sent


def _send_chunk(app: App, chunk: Sequence[tuple[Any, ...]], sent: list[AsyncResult]) -> list[AsyncResult]:
    prepared = [app.prepare(name, args, kwargs, options) for name, args, kwargs, options in chunk]
    try:
        app.publisher.publish([outgoing for _, outgoing in prepared])
    except PublishError as exc:
        raise _error(app, chunk, prepared, sent, exc) from exc
    return [app.AsyncResult(message.id) for message, _ in prepared]


def _error(app: App, chunk: Any, prepared: Any, sent: list[AsyncResult], exc: PublishError) -> BulkError:
    missing = None if exc.unpublished is None else {id(outgoing) for outgoing in exc.unpublished}
    unsent: list[Signature] = []
    for (name, args, kwargs, options), (message, outgoing) in zip(chunk, prepared, strict=True):
        if missing is None or id(outgoing) in missing:
            unsent.append(Signature(name, args, kwargs, {**options, "task_id": message.id}, app=app))
        else:
            sent.append(app.AsyncResult(message.id))
    named = ", ".join(f"{each.task}[{each.options['task_id']}]" for each in unsent[:3])
    more = f" and {len(unsent) - 3} more" if len(unsent) > 3 else ""
    error = BulkError(f"{len(sent)} tasks sent, then not {named}{more}: {exc}", sent, unsent)
    error.unpublished = exc.unpublished
    return error


def _chunks(calls: Iterable[Call]) -> Iterator[list[tuple[Any, ...]]]:
    iterator = iter(calls)
    while chunk := [_call(call) for call in itertools.islice(iterator, CHUNK)]:
        yield chunk


def _call(call: Call) -> tuple[str, Sequence[Any] | None, Mapping[str, Any] | None, Mapping[str, Any]]:
    """Name, args, kwargs and options of one call."""
    if isinstance(call, Mapping):
        signature = call if isinstance(call, Signature) else Signature(call)
        return signature.task, signature.args, signature.kwargs, signature.options
    if isinstance(call, (tuple, list)) and 1 <= len(call) <= 4:
        task, args, kwargs, options = [*call, None, None, None][:4]
        return _name(task), args, kwargs, options or {}
    raise TypeError(f"bulk: expected a signature or (task, args, kwargs, options), got {call!r}")


def _name(task: str | Task) -> str:
    if isinstance(task, str):
        return task
    try:
        return task.name
    except AttributeError:
        raise TypeError(f"bulk: expected a task or its name, got {task!r}") from None
