"""Boot steps and blueprints: how the worker and its consumer are put together, started and stopped.

Rules this file keeps:

* A blueprint is a tuple of Step classes in boot order, written down by its owner. ``requires`` asserts that order, it
  never computes it.
* Steps start in order; they close, stop and terminate in reverse.
* ``stop`` waits until the step's work has ended. ``stop`` before ``start``, and ``stop`` twice, are harmless. A start
  that fails stops what was started before it, in reverse, and raises what went wrong.
* Any greenlet may close, stop or terminate a blueprint, at any time: while it starts (no further step starts), and
  while another one stops it (both wait for the same step, and go to the next one when that has ended; ``terminate``
  ends the wait).
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

logger = logging.getLogger(__name__)

Parent = TypeVar("Parent")


class State(enum.Enum):
    """Where a blueprint is in its life."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    CLOSING = "closing"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Event(enum.Enum):
    """What can happen to a blueprint."""

    START = "start"
    STARTED = "started"
    CLOSE = "close"
    STOP = "stop"
    ENDED = "ended"


# What is not in the table is an illegal move; STOP in NEW and STOPPED, and CLOSE twice, are legal and do nothing.
TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.NEW, Event.START): State.STARTING,
    (State.NEW, Event.CLOSE): State.NEW,
    (State.NEW, Event.STOP): State.NEW,
    (State.STARTING, Event.STARTED): State.RUNNING,
    (State.STARTING, Event.CLOSE): State.CLOSING,
    (State.STARTING, Event.STOP): State.STOPPING,
    (State.RUNNING, Event.CLOSE): State.CLOSING,
    (State.RUNNING, Event.STOP): State.STOPPING,
    (State.CLOSING, Event.CLOSE): State.CLOSING,
    (State.CLOSING, Event.STOP): State.STOPPING,
    (State.STOPPING, Event.CLOSE): State.STOPPING,
    (State.STOPPING, Event.STOP): State.STOPPING,
    (State.STOPPING, Event.ENDED): State.STOPPED,
    (State.STOPPED, Event.START): State.STARTING,
    (State.STOPPED, Event.CLOSE): State.STOPPED,
    (State.STOPPED, Event.STOP): State.STOPPED,
}


class IllegalMoveError(RuntimeError):
    """A blueprint was asked for something that its state does not allow."""


class Step(Generic[Parent]):
    """One part of a worker or consumer.

    ``create`` runs once, when the blueprint is applied to its parent: make objects, touch nothing outside. Everything a
    step shares with others is an attribute that the parent's class declares.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()

    def include_if(self, parent: Parent) -> bool:
        """Whether this step takes part, asked once, before ``create``."""
        return True

    def create(self, parent: Parent) -> None:
        """Make what the step owns."""

    def start(self, parent: Parent) -> None:
        """Begin; return when the step's service is there for the steps after it."""

    def close(self, parent: Parent) -> None:
        """Take no new work. Does not wait."""

    def stop(self, parent: Parent) -> None:
        """End, and wait for the end."""

    def terminate(self, parent: Parent) -> None:
        """End now, without waiting for running work."""
        self.stop(parent)

    def info(self, parent: Parent) -> Mapping[str, Any]:
        """What remote control and the log tell about this step."""
        return {}


class StartStopStep(Step[Parent]):
    """A step that owns one service object with ``start``, ``stop`` and, where it has them, ``close`` and ``terminate``.

    ``make`` returns the service; the base class keeps the start/stop contract for it.
    """

    service: Any = None

    def make(self, parent: Parent) -> Any:
        """Return the service."""
        raise NotImplementedError(f"{type(self).__name__}.make")

    def create(self, parent: Parent) -> None:
        self.service = self.make(parent)

    def start(self, parent: Parent) -> None:
        self.service.start()

    def close(self, parent: Parent) -> None:
        close = getattr(self.service, "close", None)
        if close is not None:
            close()

    def stop(self, parent: Parent) -> None:
        if self.service is not None:
            self.service.stop()

    def terminate(self, parent: Parent) -> None:
        terminate = getattr(self.service, "terminate", None)
        if terminate is not None:
            terminate()
        else:
            self.stop(parent)


class ConsumerStep(Step[Parent]):
    """A step of the consumer blueprint: stopped and started again at every reconnect.

    ``stop`` runs with the connection alive (shutdown) or dead (reconnect), so it must take a dead one for granted.
    """


@dataclass(frozen=True, slots=True)
class Placement:
    """A user's step, and where it goes: ``before`` or ``after`` the named step, or at the end."""

    step: type[Step[Any]]
    before: str | None = None
    after: str | None = None

    def __post_init__(self) -> None:
        if self.before and self.after:
            raise ValueError(
                f"step {self.step.name!r} is placed before {self.before!r} and after {self.after!r}: give one of them"
            )


def placed(steps: Sequence[type[Step[Any]]], extra: Iterable[Placement]) -> tuple[type[Step[Any]], ...]:
    """``steps`` with the user's steps put in. Raises ValueError for a name that is not there."""
    order = list(steps)
    for placement in extra:
        anchor = placement.before or placement.after
        names = [step.name for step in order]
        if anchor is None:
            order.append(placement.step)
        elif anchor in names:
            order.insert(names.index(anchor) + (0 if placement.before else 1), placement.step)
        else:
            raise ValueError(
                f"step {placement.step.name!r} should stand beside {anchor!r}, but the steps are: {', '.join(names)}"
            )
    return tuple(order)


class Blueprint(Generic[Parent]):
    """An ordered tuple of steps and the state they share.

    ``state`` is written by start, close and stop alone, and read by anyone. ``restart_count`` counts the starts after
    the first one.
    """

    def __init__(self, name: str, steps: Sequence[type[Step[Parent]]], extra: Iterable[Placement] = ()) -> None:
        self.name = name
        self.state = State.NEW
        self.restart_count = -1
        self._classes = placed(steps, extra)
        self._steps: tuple[Step[Parent], ...] = ()
        self._started: list[Step[Parent]] = []
        self._check_order()

    def _check_order(self) -> None:
        seen: set[str] = set()
        for step in self._classes:
            if step.name in seen:
                raise ValueError(f"{self.name} blueprint: two steps are named {step.name!r}; a name finds one step")
            missing = [name for name in step.requires if name not in seen]
            if missing:
                raise ValueError(
                    f"{self.name} blueprint: step {step.name!r} requires {', '.join(missing)} before it; "
                    f"the order is {', '.join(s.name for s in self._classes)}"
                )
            seen.add(step.name)

    @property
    def steps(self) -> tuple[Step[Parent], ...]:
        """The steps that take part, in boot order; empty before ``apply``."""
        return self._steps

    def step(self, name: str) -> Step[Parent]:
        """The step of that name. Raises KeyError if it takes no part."""
        for step in self._steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def apply(self, parent: Parent) -> Blueprint[Parent]:
        """Instantiate and create every step that wants to take part; returns the blueprint."""
        included = []
        for step_class in self._classes:
            step = step_class()
            if step.include_if(parent):
                step.create(parent)
                included.append(step)
        self._steps = tuple(included)
        logger.debug("%s blueprint: %s", self.name, " -> ".join(step.name for step in self._steps))
        return self

    def start(self, parent: Parent) -> None:
        """Start every step in order. If one fails, stop those before it, in reverse, and raise its exception.

        Returns early, with ``state`` telling it, when the blueprint is closed or stopped meanwhile.
        """
        self._move(Event.START)
        self.restart_count += 1
        for step in self._steps:
            self._start_step(step, parent)
            if self.state is not State.STARTING:
                return
        self._move(Event.STARTED)

    def close(self, parent: Parent) -> None:
        """Tell every started step, in reverse, to take no new work."""
        self._move(Event.CLOSE)
        for step in tuple(reversed(self._started)):
            self._guarded("close", step, parent)

    def stop(self, parent: Parent) -> None:
        """Stop every started step, in reverse, and wait. One that fails does not keep the others from stopping."""
        self._end(parent, "stop")

    def terminate(self, parent: Parent) -> None:
        """As ``stop``, without waiting for running work; called while ``stop`` waits, it ends that wait."""
        self._end(parent, "terminate")

    def info(self, parent: Parent) -> dict[str, Any]:
        """What each step tells about itself, by step name, without those that have nothing to tell."""
        told = {step.name: dict(step.info(parent)) for step in self._steps}
        return {name: info for name, info in told.items() if info}

    def _start_step(self, step: Step[Parent], parent: Parent) -> None:
        began = time.monotonic()
        self._started.append(step)
        try:
            step.start(parent)
        except BaseException:
            logger.debug("%s blueprint: %s failed to start", self.name, step.name)
            self.stop(parent)
            raise
        logger.debug("%s blueprint: %s started in %.1f ms", self.name, step.name, (time.monotonic() - began) * 1e3)
        if self.state is State.CLOSING:
            self._guarded("close", step, parent)
        elif self.state is not State.STARTING:  # its stop may have come before there was anything to stop
            self._guarded("stop", step, parent)

    def _end(self, parent: Parent, how: str) -> None:
        self._move(Event.STOP)
        while self._started:
            step = self._started[-1]
            self._guarded(how, step, parent)
            if step in self._started:  # else someone who stops us too was first
                self._started.remove(step)
        if self.state is State.STOPPING:
            self._move(Event.ENDED)

    def _guarded(self, method: str, step: Step[Parent], parent: Parent) -> None:
        try:
            getattr(step, method)(parent)
        except Exception:  # the other steps must still get their turn, or a broken step would keep the process alive
            logger.exception("%s blueprint: %s of step %s failed", self.name, method, step.name)

    def _move(self, event: Event) -> None:
        try:
            self.state = TRANSITIONS[self.state, event]
        except KeyError:
            raise IllegalMoveError(f"{self.name} blueprint cannot {event.value}: it is {self.state.value}") from None
