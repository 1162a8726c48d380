"""What can come of a task's message, as data: one class an outcome, looked up by class in settlement's table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from greenworker.errors import Retry, TimeLimitExceeded


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The body returned ``value``."""

    value: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """The body raised ``exc``; ``traceback`` is its text. ``expected`` if the task's ``throws`` lists it."""

    exc: BaseException
    traceback: str
    expected: bool = False

    def error(self) -> BaseException:
        """What its result holds."""
        return self.exc


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The hard limit of ``limit`` seconds ended the body."""

    limit: float
    traceback: str = ""

    def error(self) -> BaseException:
        """What its result holds."""
        return TimeLimitExceeded(self.limit)


@dataclass(frozen=True, slots=True)
class Retried:
    """The body asked to run again; ``retry`` says when and with what."""

    retry: Retry
    traceback: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The body refused its message: back to the queue, or to the dead-letter queue with ``reason``."""

    reason: str
    requeue: bool


@dataclass(frozen=True, slots=True)
class Ignored:
    """The body asked to leave no trace."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """The task was not wanted any more: ``reason`` is "expired", "revoked" or "terminated"."""

    reason: str


@dataclass(frozen=True, slots=True)
class PutBack:
    """The worker stops: the body was interrupted and its message goes back to the queue, uncounted."""


Outcome = Succeeded | Failed | TimedOut | Retried | Rejected | Ignored | Revoked | PutBack
