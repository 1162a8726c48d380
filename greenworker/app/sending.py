"""From the arguments of ``apply_async`` to a TaskMessage: pure, the time and the sender's name are handed in."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, cast

from kombu.serialization import registry

from greenworker.app.context import TaskContext
from greenworker.app.options import SendOptions, check_limits, check_names, check_priority
from greenworker.app.routes import over
from greenworker.app.signature import on_the_wire
from greenworker.app.task import Task
from greenworker.app.times import due
from greenworker.protocol.fields import MAX_ID_BYTES
from greenworker.protocol.message import TaskMessage

NOTHING_ROUTED: Mapping[str, Any] = MappingProxyType({})

# Options of a task that travel in its messages, so that every worker sees what the sender meant.
SENT_WITH_TASK = ("queue", "priority", "expires", "time_limit", "soft_time_limit", "serializer", "compression")


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends: ``origin`` names the process, ``reply_to`` is where replies to it go."""

    origin: str
    reply_to: str


def send_options(
    name: str, task: Task | None, given: SendOptions, routed: Mapping[str, Any] = NOTHING_ROUTED
) -> SendOptions:
    """``given`` over what its route says, that over what the task was defined with (app/routes.py).

    Raises TypeError for an unknown option.

    An option that is given as None overrides the task's: no time limit, no expiry.
    """
    check_names(f"task {name}", given, SendOptions.__annotations__)
    if task is None:
        return cast(SendOptions, over(routed, given)) if routed else given
    own: dict[str, Any] = {key: getattr(task, key) for key in ("queue", "priority", "expires")}
    own |= {key: task.given[key] for key in SENT_WITH_TASK if key in task.given and key not in own}
    own["ignore_result"] = task.ignore_result
    own = {key: value for key, value in own.items() if value is not None}
    return cast(SendOptions, over(over(own, routed) if routed else own, given))


def new_message(
    name: str,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: SendOptions,
    *,
    now: datetime,
    sender: Sender,
    parent: TaskContext | None,
) -> TaskMessage:
    """The message of a new call of task ``name``. ``parent`` is the task that a worker runs here, if any.

    Raises TypeError for arguments that are no list or mapping, ValueError for times, limits and links that make no
    sense.
    """
    if isinstance(args, (str, bytes)) or not isinstance(args or (), Sequence):
        raise TypeError(f"task {name}: args must be a list or tuple, got {type(args).__name__}")
    if not isinstance(kwargs or {}, Mapping):
        raise TypeError(f"task {name}: kwargs must be a mapping, got {type(kwargs).__name__}")
    check_limits(f"task {name}", options.get("time_limit"), options.get("soft_time_limit"))
    _check_identity(name, options)
    task_id = options.get("task_id") or str(uuid.uuid4())
    countdown = options.get("countdown")
    try:
        eta = due(countdown, now) if countdown else due(options.get("eta"), now)
        expires = due(options.get("expires"), now)
    except ValueError as exc:
        raise ValueError(f"task {name}: {exc}") from None
    return TaskMessage(
        id=task_id,
        task=name,
        args=args if isinstance(args, (list, tuple)) else tuple(args or ()),
        kwargs=dict(kwargs or {}),
        retries=options.get("retries", 0),
        eta=eta,
        expires=expires,
        time_limit=options.get("time_limit"),
        soft_time_limit=options.get("soft_time_limit"),
        root_id=options.get("root_id") or (parent and (parent.root_id or parent.id)) or task_id,
        parent_id=options.get("parent_id") or (parent.id if parent else None),
        origin=sender.origin,
        ignore_result=options.get("ignore_result"),
        reply_to=options.get("reply_to") or sender.reply_to,
        correlation_id=task_id,
        callbacks=on_the_wire(options.get("link")),
        errbacks=on_the_wire(options.get("link_error")),
        chain=on_the_wire(options.get("chain")),
        chord=options.get("chord"),
        group=options.get("group_id"),
        group_index=options.get("group_index"),
        shadow=options.get("shadow"),
        headers=dict(options.get("headers") or {}),
        priority=options.get("priority"),
    )


def _check_identity(name: str, options: SendOptions) -> None:
    """What a worker would send to the dead-letter queue is refused here, where its author can still mend it."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"expected the name of a task, got {name!r}")
    id_bytes = len((options.get("task_id") or "").encode())
    if id_bytes > MAX_ID_BYTES:
        raise ValueError(f"task {name}, task_id: expected at most {MAX_ID_BYTES} bytes, got {id_bytes}")
    retries = options.get("retries")
    if retries is not None and (type(retries) is not int or retries < 0):
        raise ValueError(f"task {name}, retries: expected a whole number from 0 up, got {retries!r}")
    check_priority(f"task {name}", options.get("priority"))


def serializer_of(content_type: str | None) -> str | None:
    """The name of the serializer that writes ``content_type``; None if there is none."""
    name: str | None = registry.type_to_name.get(content_type)
    return name
