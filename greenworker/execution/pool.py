"""What execution and the consumer need of a pool, and what each kind of pool can do.

The pools themselves stand in ``worker/pool.py``. A job is a callable that takes its own Run; the pool knows nothing of
tasks or messages.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from greenworker.errors import GreenworkerError


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a pool can do. Whoever needs one of these asks here, never for the pool's name.

    ``green``: jobs are greenlets of one thread. ``limits``: an exception can be raised in a running job, so that time
    limits work. ``put_back``: a running job can be ended at shutdown and its message given back. ``terminate``: a
    running job can be ended on request. ``resize``: grow and shrink.
    """

    green: bool
    limits: bool
    put_back: bool
    terminate: bool
    resize: bool


CAPABILITIES: Mapping[str, Capabilities] = {
    "gevent": Capabilities(green=True, limits=True, put_back=True, terminate=True, resize=True),
    "eventlet": Capabilities(green=True, limits=True, put_back=True, terminate=True, resize=True),
    # CPython raises in another thread between two bytecodes only: never in a blocking call, where I/O-bound tasks are
    "threads": Capabilities(green=False, limits=False, put_back=False, terminate=False, resize=True),
    "solo": Capabilities(green=False, limits=False, put_back=False, terminate=False, resize=False),
}


class PoolClosedError(GreenworkerError):
    """A job was submitted after ``close``."""


class RunState(enum.Enum):
    """Where a run is. It only ever moves down this list, and skips RUNNING and ENDED if it is cancelled."""

    WAITING = "waiting"  # in the line, or handed to a slot that has not begun it
    RUNNING = "running"
    ENDED = "ended"
    CANCELLED = "cancelled"  # taken out before it began; its job is never called


class Run(Protocol):
    """One job on its way through the pool.

    ``interruptible`` is written by the job alone, in its own greenlet: True just before the code that may be
    interrupted, False just after it. ``interrupted`` is the last exception that was raised in it by ``throw``, or None:
    whatever comes out of a job after that is the doing of that exception (a wait that is broken off may surface as
    another one). ``subject`` is what the submitter gave with the job, for the job to find here.
    """

    interruptible: bool
    subject: Any

    @property
    def state(self) -> RunState: ...

    @property
    def ended(self) -> bool:
        """Whether it is over: ENDED or CANCELLED."""

    @property
    def interrupted(self) -> BaseException | None: ...

    def throw(self, exc: BaseException) -> bool:
        """Have ``exc`` raised in the running job, soon, where it waits.

        Raised only if, at that very moment, this run is still in its slot and ``interruptible``; otherwise dropped.
        Returns False at once, and does nothing, if the run does not run now or the pool cannot do it. Never waits.
        """

    def cancel(self) -> bool:
        """Take it out before it begins. False if it has begun, ended or been cancelled before."""


Job = Callable[[Run], None]


class Pool(Protocol):
    """Runs jobs, at most ``size`` at once. Used from one hub (green pools) or from any thread (the others)."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def size(self) -> int:
        """How many slots there may be."""

    @property
    def busy(self) -> int:
        """How many slots have a job."""

    @property
    def waiting(self) -> int:
        """How many jobs wait for a slot."""

    def start(self) -> None: ...

    def submit(self, job: Job, subject: Any = None) -> Run:
        """Run ``job`` as soon as there is a slot, with ``subject`` on its Run. Never blocks; the caller bounds the line
        by its prefetch. (A bound method and a subject, because a ``partial`` costs each waiting task 1 KB of stack.)

        Raises PoolClosedError after ``close`` and before ``start``.
        """

    def run_waiting(self) -> bool:
        """Run one waiting job in the calling thread, if the pool is of that kind (solo). The loop calls it each turn.

        Returns True if it ran one, so that there may be another. Always False for pools that run jobs by themselves.
        """

    def grow(self, n: int) -> None:
        """``n`` more slots."""

    def shrink(self, n: int) -> None:
        """``n`` slots fewer, at least one stays. A slot that has a job finishes it first."""

    def runs(self) -> Sequence[Run]:
        """Those running now."""

    def close(self) -> None:
        """Take no more jobs; those waiting still run. Harmless twice."""

    def join(self, timeout: float) -> bool:
        """Wait until every job has ended, ``timeout`` seconds at most. Returns whether they have."""

    def terminate(self, exc: BaseException) -> int:
        """Throw ``exc`` into every running job, cancel those waiting. Returns how many it was thrown into."""

    def stop(self) -> None:
        """Close, cancel what waits, end the free slots, wait a short while for the others. Harmless twice."""
