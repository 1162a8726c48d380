"""Hooks: the methods of a task class that are called before and after each run; what calls them for a run, in order.

A worker calls them in the task's slot and context (execution/hooks.py), an eager run where it runs. Which of them a
class overrides is found out once, when the class is made: a run of a task that overrides none asks one empty set.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from greenworker.protocol.message import TaskMessage
from greenworker.protocol.results import FAILURE, RETRY, SUCCESS

AFTER = {SUCCESS: "on_success", FAILURE: "on_failure", RETRY: "on_retry"}
HOOKS = ("before_start", *AFTER.values(), "after_return")
FINAL = (SUCCESS, FAILURE)  # states of a run that nothing follows: a retry is not the task's return


@dataclass(frozen=True, slots=True)
class ExceptionInfo:
    """What a run raised, and where: ``traceback`` is text, as results have it."""

    exception: BaseException
    traceback: str

    @property
    def type(self) -> type[BaseException]:
        """The exception's class."""
        return type(self.exception)

    def __str__(self) -> str:
        return self.traceback


class TaskHooks:
    """The hooks, which do nothing here. A subclass of Task overrides those that it wants."""

    hooks: frozenset[str] = frozenset()  # those that the class overrides

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.hooks = frozenset(name for name in HOOKS if getattr(cls, name) is not getattr(TaskHooks, name))

    def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Called before the body, and before its time limits begin."""

    def on_success(self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Called when the body has returned ``retval``."""

    def on_failure(
        self,
        exc: BaseException,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo,
    ) -> None:
        """Called when the task has failed with ``exc``: TimeLimitExceeded when its time was up."""

    def on_retry(
        self,
        exc: BaseException | None,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo,
    ) -> None:
        """Called when the task is to run again, for the reason ``exc`` if it gave one."""

    def after_return(  # noqa: PLR0917 - the order is Celery's
        self,
        status: str,
        retval: Any,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo | None,
    ) -> None:
        """Called last, with SUCCESS and what the body returned, or FAILURE and the exception."""


class HookCall(NamedTuple):
    """One call to make."""

    name: str
    call: Callable[[], Any]


def before(task: TaskHooks, message: TaskMessage) -> Iterator[HookCall]:
    """What to call before the run of ``message``."""
    if "before_start" in task.hooks:
        yield _call(task, "before_start", message.id, message.args, message.kwargs)


def after(
    task: TaskHooks, message: TaskMessage, state: str, value: Any, einfo: ExceptionInfo | None
) -> Iterator[HookCall]:
    """What to call after the run of ``message`` that ended in ``state``, with ``value`` or the exception ``value``."""
    run = (message.id, message.args, message.kwargs)
    name = AFTER[state]
    if name in task.hooks:
        yield _call(task, name, value, *run, *(() if einfo is None else (einfo,)))
    if "after_return" in task.hooks and state in FINAL:
        yield _call(task, "after_return", state, value, *run, einfo)


def _call(task: TaskHooks, name: str, *args: Any) -> HookCall:
    return HookCall(name, functools.partial(getattr(task, name), *args))
