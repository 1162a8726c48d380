"""What a task can be defined with and sent with: typed tables, whose keys are what is accepted at run time too.

A key that is absent means "not given": the settings decide. A key with None is an answer of its own:
``max_retries=None`` is no end of retries, ``time_limit=None`` no limit.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Generic, Protocol, TypedDict, TypeVar

from greenworker.settings.model import TaskSettings

Value = TypeVar("Value")

HIGHEST_PRIORITY = 255  # AMQP has one byte for it


class TaskOptions(TypedDict, total=False):
    """What ``@app.task(...)`` takes. Times in seconds; ``rate_limit``: "10/s", "100/m", "1000/h" or per second."""

    name: str
    bind: bool
    typing: bool
    queue: str
    priority: int
    expires: float | datetime
    rate_limit: str | float | None
    time_limit: float | None
    soft_time_limit: float | None
    acks_late: bool
    track_started: bool
    ignore_result: bool
    serializer: str
    compression: str | None
    throws: Iterable[type[BaseException]]
    max_retries: int | None
    default_retry_delay: float
    autoretry_for: Iterable[type[BaseException]]
    dont_autoretry_for: Iterable[type[BaseException]]
    retry_kwargs: Mapping[str, Any]
    retry_backoff: bool | float
    retry_backoff_max: float
    retry_jitter: bool
    Request: type[Any] | str | None
    Strategy: Any


class MessageOptions(TypedDict, total=False):
    """What ``retry`` takes, besides when. Times in seconds; a naive datetime counts as UTC."""

    expires: float | datetime | str | None
    queue: str | None
    exchange: str | None
    routing_key: str | None
    priority: int | None
    task_id: str | None
    headers: Mapping[str, Any] | None
    retries: int
    time_limit: float | None
    soft_time_limit: float | None
    ignore_result: bool
    serializer: str | None
    compression: str | None
    root_id: str | None
    parent_id: str | None
    reply_to: str | None


class SendOptions(MessageOptions, total=False):
    """What ``apply_async`` and ``send_task`` take."""

    countdown: float | None
    eta: datetime | str | None
    link: Any  # a signature, or several
    link_error: Any
    chain: list[Any] | None  # signatures, the next one last
    chord: dict[str, Any] | None
    group_id: str | None
    group_index: int | None
    shadow: str | None


class HasOptions(Protocol):
    """What FromSettings needs of a task."""

    given: dict[str, Any]

    @property
    def task_settings(self) -> TaskSettings:
        """The ``[task]`` section."""


class FromSettings(Generic[Value]):
    """An option of a task that ``[task]`` decides unless the task was given its own. Assigning gives it its own."""

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    def __get__(self, task: HasOptions | None, owner: type[Any]) -> Value:
        if task is None:  # asked of the class: what its body gave
            of_class: Value = owner.class_options.get(self._name)
            return of_class
        if self._name in task.given:
            value: Value = task.given[self._name]
        else:
            value = getattr(task.task_settings, self._name)
        return value

    def __set__(self, task: HasOptions, value: Value) -> None:
        task.given[self._name] = value


def check_names(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises TypeError, naming the nearest option, for a name that is no option of ``where``."""
    names = sorted(known)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(names)}"
            raise TypeError(f"{where}: unknown option {name!r}; {hint}")


def exception_classes(where: str, given: Any) -> tuple[type[BaseException], ...]:
    """A tuple of exception classes out of any iterable of them. Raises TypeError for anything else."""
    if isinstance(given, type):
        raise TypeError(
            f"{where}: expected a tuple of exception classes, got {given.__name__}; write ({given.__name__},)"
        )
    classes = tuple(given)
    for item in classes:
        if not (isinstance(item, type) and issubclass(item, BaseException)):
            raise TypeError(f"{where}: expected exception classes, got {item!r}")
    return classes


def check_priority(where: str, priority: int | None) -> None:
    """Raises ValueError for a priority that no message can carry."""
    if priority is not None and (type(priority) is not int or not 0 <= priority <= HIGHEST_PRIORITY):
        raise ValueError(f"{where}, priority: expected a whole number from 0 to {HIGHEST_PRIORITY}, got {priority!r}")


def check_limits(where: str, time_limit: float | None, soft_time_limit: float | None) -> None:
    """Raises ValueError for a soft limit above the hard one: it could never be reached."""
    if time_limit is not None and soft_time_limit is not None and soft_time_limit > time_limit:
        raise ValueError(
            f"{where}: expected a soft_time_limit of at most time_limit, {time_limit:g} s; got {soft_time_limit:g} s"
        )
