"""The context of a running task: what ``self.request`` is, and where the current one is found.

The worker sets CURRENT in the fresh ``contextvars.Context`` of every run; a task that is called like a function sets it
for the length of that call, so that ``self.request`` tells the two apart. A worker's run is set as what makes a context
and not as one: most bodies never ask, and 10,000 that sleep would hold 4 MB of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from greenworker.protocol.message import TaskMessage


@dataclass(slots=True, eq=False)
class TaskContext:
    """One run of one task. Names are Celery's; ``eta`` and ``expires`` are aware UTC datetimes, limits are seconds.

    Written by whoever starts the run, but for ``max_retries``, which ``Task.retry`` writes, and ``entered``, which
    ``Task.__call__`` does.
    """

    id: str | None = None
    task: str | None = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 0
    eta: datetime | None = None
    expires: datetime | None = None
    delivery_info: dict[str, Any] = field(default_factory=dict)  # exchange, routing_key, priority, redelivered
    hostname: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    shadow: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    callbacks: list[Any] | None = None
    errbacks: list[Any] | None = None
    chain: list[Any] | None = None
    chord: Any = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    ignore_result: bool = False
    is_eager: bool = False
    called_directly: bool = False
    origin: str | None = None
    acks_late: bool = True
    queue: str | None = None  # the queue that the message came from
    max_retries: int | None = None  # what this run gave to Task.retry; holds for autoretry in the same run
    entered: bool = False  # the __call__ of a task's own class has called on, to the body
    caller: TaskContext | None = None  # for a direct call: what was current where it was made
    message: TaskMessage | None = None  # what the worker got; None for a direct call

    def task_context(self) -> TaskContext:
        """Itself: see HasContext."""
        return self

    @property
    def timelimit(self) -> tuple[float | None, float | None]:
        """The hard and the soft time limit, in seconds, as Celery's messages carry them."""
        return self.time_limit, self.soft_time_limit

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute of that name, or ``default``."""
        return getattr(self, name, default)

    @classmethod
    def of(
        cls,
        message: TaskMessage,
        *,
        hostname: str | None = None,
        delivery_info: Mapping[str, Any] | None = None,
        acks_late: bool = True,
        queue: str | None = None,
        ignore_result: bool | None = None,
    ) -> TaskContext:
        """The context of a worker's run of ``message``.

        ``ignore_result`` is what holds for the run; None takes the message's word, which may be missing.
        """
        return cls(
            id=message.id,
            task=message.task,
            args=message.args,
            kwargs=message.kwargs,
            retries=message.retries,
            eta=message.eta,
            expires=message.expires,
            delivery_info=dict(delivery_info or {}),
            hostname=hostname,
            headers=message.headers,
            root_id=message.root_id,
            parent_id=message.parent_id,
            group=message.group,
            group_index=message.group_index,
            shadow=message.shadow,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            callbacks=message.callbacks,
            errbacks=message.errbacks,
            chain=message.chain,
            chord=message.chord,
            time_limit=message.time_limit,
            soft_time_limit=message.soft_time_limit,
            ignore_result=bool(message.ignore_result) if ignore_result is None else ignore_result,
            origin=message.origin,
            acks_late=acks_late,
            queue=queue,
            message=message,
        )


class HasContext(Protocol):
    """What CURRENT holds: a context, or a worker's run, which makes its context at the first call."""

    def task_context(self) -> TaskContext:
        """The same object at every call."""


CURRENT: ContextVar[HasContext | None] = ContextVar("greenworker_task", default=None)


def current_context() -> TaskContext | None:
    """The context of the innermost task that runs here, or is called directly here; None outside."""
    current = CURRENT.get()
    return None if current is None else current.task_context()


def worker_context() -> TaskContext | None:
    """The context of the task that a worker runs here; None outside. Looks through direct calls made by that task."""
    context = current_context()
    while context is not None and context.called_directly:
        context = context.caller
    return context


@contextmanager
def direct_call(task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[TaskContext]:
    """Make a direct call of ``task`` current for the length of the block."""
    context = TaskContext(task=task, args=args, kwargs=kwargs, called_directly=True, caller=current_context())
    with running(context):
        yield context


@contextmanager
def running(context: TaskContext) -> Iterator[None]:
    """Make ``context`` current for the length of the block."""
    token = CURRENT.set(context)
    try:
        yield
    finally:
        CURRENT.reset(token)
