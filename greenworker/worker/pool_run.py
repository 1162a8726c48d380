"""One job on its way through a pool: its state, and how it is interrupted or taken out."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from greenworker.execution.pool import Job, RunState
from greenworker.green.base import SlotHandle

WAITING = RunState.WAITING  # an enum's members are slow to reach in Python 3.11, and a run is made for every task


class Line(Protocol):
    """The pool, as far as its runs know it."""

    def take_out(self, run: JobRun) -> bool:
        """Cancel a run that has not begun. False if it has."""


class JobRun:
    """Implements execution/pool.Run.

    ``state`` is written by the pool, under its lock. ``interruptible`` is written by the job, in its slot.
    ``handle`` is the slot it runs in, where that slot can be thrown into, and None before and after.
    """

    __slots__ = ("_line", "handle", "interrupted", "interruptible", "job", "state", "subject")

    def __init__(self, line: Line, job: Job, subject: Any) -> None:
        self._line = line
        self.job = job
        self.subject = subject
        self.state = WAITING
        self.handle: SlotHandle | None = None
        self.interruptible = False
        self.interrupted: BaseException | None = None

    @property
    def ended(self) -> bool:
        return self.state is RunState.ENDED or self.state is RunState.CANCELLED

    def throw(self, exc: BaseException) -> bool:
        handle = self.handle
        if handle is None:
            return False
        handle.throw(exc, partial(self._admit, exc))
        return True

    def cancel(self) -> bool:
        return self._line.take_out(self)

    def _admit(self, exc: BaseException) -> bool:
        """Asked at the very moment of delivery, with the slot switched out: is it still this run, and interruptible?"""
        if self.handle is None or not self.interruptible:
            return False
        self.interrupted = exc
        return True
