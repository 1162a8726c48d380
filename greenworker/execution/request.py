"""One message on its way through this worker: what came, which task it is for, and how far it is.

The rule this file keeps: everything that changes a request's stage goes through ``Request.move``, which looks it up in
one table. An illegal move is a fault of the worker and names event and stage.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from greenworker.app.context import TaskContext
from greenworker.broker.delivery import Delivery
from greenworker.protocol.message import TaskMessage

if TYPE_CHECKING:
    from greenworker.app.task import Task
    from greenworker.clock import TimerEntry
    from greenworker.execution.outcome import Outcome
    from greenworker.execution.pool import Run


class Stage(enum.Enum):
    """How far a request is."""

    __hash__ = object.__hash__  # Enum's own is Python code, and every move looks two members up

    RECEIVED = "received"
    DEFERRED = "deferred"  # waits here for its ETA or its rate limit
    WAITING = "waiting"  # in the pool's line
    RUNNING = "running"  # its body runs
    FINISHED = "finished"  # has an outcome that is being settled
    SETTLED = "settled"  # acked, requeued, replaced or dropped


class Move(enum.Enum):
    """What can happen to a request."""

    __hash__ = object.__hash__

    DEFER = "defer"
    SUBMIT = "submit"
    START = "start"
    FINISH = "finish"
    SETTLE = "settle"


MOVES: Mapping[tuple[Stage, Move], Stage] = {
    (Stage.RECEIVED, Move.DEFER): Stage.DEFERRED,
    (Stage.RECEIVED, Move.SUBMIT): Stage.WAITING,
    (Stage.RECEIVED, Move.FINISH): Stage.FINISHED,  # expired, revoked
    (Stage.RECEIVED, Move.SETTLE): Stage.SETTLED,  # parked on the broker, given back
    (Stage.DEFERRED, Move.DEFER): Stage.DEFERRED,  # its ETA is over, now its rate limit holds it
    (Stage.DEFERRED, Move.SUBMIT): Stage.WAITING,
    (Stage.DEFERRED, Move.FINISH): Stage.FINISHED,
    (Stage.DEFERRED, Move.SETTLE): Stage.SETTLED,
    (Stage.WAITING, Move.START): Stage.RUNNING,
    (Stage.WAITING, Move.FINISH): Stage.FINISHED,  # expired while it waited
    (Stage.WAITING, Move.SETTLE): Stage.SETTLED,  # given back
    (Stage.RUNNING, Move.FINISH): Stage.FINISHED,
    (Stage.FINISHED, Move.SETTLE): Stage.SETTLED,
}


class IllegalStageError(RuntimeError):
    """A request was asked for something that its stage does not allow."""


class Request:
    """A task's message in this worker. A task may name a subclass as its ``Request``.

    Immutable: message, task, received_at. Written by the loop: delivery (a redelivery replaces it), run, timer. Written
    by the slot that runs it: started_at, hostname. ``stopping`` is written by whoever interrupts the body (time limit,
    shutdown, revoke) and read by the executor.
    """

    __slots__ = (
        "_context",
        "acks_late",
        "delivery",
        "hostname",
        "message",
        "received_at",
        "run",
        "stage",
        "started_at",
        "stopping",
        "task",
        "timer",
    )

    def __init__(
        self, message: TaskMessage, task: Task, delivery: Delivery, received_at: float, acks_late: bool
    ) -> None:
        self.message = message
        self.task = task
        self.delivery = delivery
        self.received_at = received_at
        self.acks_late = acks_late
        self.started_at = 0.0
        self.stage = Stage.RECEIVED
        self.run: Run | None = None
        self.timer: TimerEntry | None = None
        self.stopping: Outcome | None = None
        self.hostname = ""  # the node that runs it
        self._context: TaskContext | None = None

    def move(self, move: Move) -> None:
        """Go on to the next stage. Raises IllegalStageError where the table has no way."""
        try:
            self.stage = MOVES[self.stage, move]
        except KeyError:
            raise IllegalStageError(f"{self} cannot {move.value}: it is {self.stage.value}") from None

    # What receivers of the signal task_received know from Celery's request.

    @property
    def id(self) -> str:
        """The task's id."""
        return self.message.id

    @property
    def name(self) -> str:
        """The task's name."""
        return self.message.task

    @property
    def args(self) -> Sequence[Any]:
        """What the body is called with."""
        return self.message.args

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """What the body is called with, by name."""
        return self.message.kwargs

    @property
    def identity(self) -> tuple[str, int]:
        """What makes two deliveries the same work: task id and retries."""
        return self.message.id, self.message.retries

    @property
    def soft_time_limit(self) -> float | None:
        """Seconds: the message's own, else the task's."""
        own = self.message.soft_time_limit
        return self.task.soft_time_limit if own is None else own

    @property
    def time_limit(self) -> float | None:
        """Seconds: the message's own, else the task's."""
        own = self.message.time_limit
        return self.task.time_limit if own is None else own

    @property
    def ignore_result(self) -> bool:
        """Whether no result is stored: the message's own word, else the task's."""
        own = self.message.ignore_result
        return self.task.ignore_result if own is None else own

    def task_context(self) -> TaskContext:
        """What the body sees as ``self.request``, made when it first looks."""
        if self._context is None:
            self._context = self.context(self.hostname)
        return self._context

    def context(self, hostname: str) -> TaskContext:
        """A new context for the run on the node ``hostname``."""
        delivery = self.delivery
        context = TaskContext.of(
            self.message,
            hostname=hostname,
            delivery_info={
                "exchange": delivery.exchange,
                "routing_key": delivery.routing_key,
                "priority": delivery.envelope.properties.get("priority"),
                "redelivered": delivery.redelivered,
            },
            acks_late=self.acks_late,
            queue=delivery.queue,
            ignore_result=self.ignore_result,
        )
        context.time_limit, context.soft_time_limit = self.time_limit, self.soft_time_limit
        return context

    def __str__(self) -> str:
        return f"{self.message.task}[{self.message.id}]"
