"""Strategies: what to do with each message of one task, prepared once a task when the consumer starts."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from greenworker.app.task import Task
from greenworker.broker.dead_letters import DeadLetters
from greenworker.broker.delivery import Delivery
from greenworker.clock import Clock
from greenworker.errors import AppError
from greenworker.execution import task_signals
from greenworker.execution.admission import Admission
from greenworker.execution.dispatch import Dispatcher
from greenworker.execution.ledger import Ledger
from greenworker.execution.request import Request
from greenworker.execution.task_log import TaskLog
from greenworker.protocol.message import TaskMessage


class Strategy(Protocol):
    """Takes one message of the task it was prepared for. Runs in the loop: it must not block."""

    def __call__(self, message: TaskMessage, delivery: Delivery) -> None:
        """See to it that ``delivery`` is settled sooner or later. An exception sends it to the dead-letter queue."""


@dataclass(frozen=True, slots=True)
class TaskServices:
    """What a strategy works with. All of it outlives the connection."""

    ledger: Ledger
    admission: Admission
    dispatcher: Dispatcher
    dead_letters: DeadLetters
    task_log: TaskLog
    clock: Clock
    consumer: Callable[[], Any] = lambda: None  # the sender of signals; it is made with these services, so after them


class DefaultStrategy:
    """A request is made, entered in the ledger, and admitted.

    A task replaces it by ``Strategy = callable(task, services)`` or its dotted name, and the request's class by
    ``Request``.
    """

    def __init__(self, task: Task, services: TaskServices) -> None:
        self._task = task
        self._acks_late = task.acks_late
        self._services = services
        self._request_class: type[Request] = resolve(task.Request, task, "Request") if task.Request else Request

    def __call__(self, message: TaskMessage, delivery: Delivery) -> None:
        services = self._services
        if delivery.redelivered and self._is_known(message, delivery):
            return
        request = self._request_class(message, self._task, delivery, services.clock.monotonic(), self._acks_late)
        services.ledger.add(request)
        services.task_log.received(request)
        task_signals.received(request, services.consumer())
        services.dispatcher.admit(request)

    def _is_known(self, message: TaskMessage, delivery: Delivery) -> bool:
        """Whether a redelivery is of work that is in hand or finished here; then it is seen to."""
        identity = (message.id, message.retries)
        if self._services.ledger.adopt(identity, delivery) is not None:
            return True
        if self._services.ledger.was_finished(identity):
            delivery.ack()
            return True
        return False


def prepare(task: Task, services: TaskServices) -> Strategy:
    """The strategy of ``task``. Raises AppError if the one it names cannot be found."""
    make: Callable[[Task, TaskServices], Strategy] = DefaultStrategy
    if task.Strategy:
        make = resolve(task.Strategy, task, "Strategy")
    return make(task, services)


def resolve(named: Any, task: Task, option: str) -> Any:
    """What a task's option stands for: the object itself, or the one that ``module:name`` or ``module.name`` names."""
    if not isinstance(named, str):
        return named
    module, _, name = named.partition(":") if ":" in named else named.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise AppError(
            f"task {task.name}: {option} = {named!r}: expected the dotted name of a class or function: {exc}"
        ) from exc
