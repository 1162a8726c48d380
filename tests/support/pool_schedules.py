"""Plays random schedules against a pool in a patched process.

``python -m tests.support.pool_schedules POOL EXAMPLES``. Every job knows which exceptions were meant for it. The rules,
whatever the schedule: a job gets only its own exceptions; every job that began ended; every other one was cancelled; no
slot is lost.
"""

from __future__ import annotations

import sys

POOL = sys.argv[1] if __name__ == "__main__" else ""
if POOL:
    from greenworker.green.patching import patch

    patch(POOL)

import logging
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenworker.errors import SoftTimeLimitExceeded, StopTask
from greenworker.execution.pool import Run, RunState
from greenworker.worker.pool_slots import SlotPool
from tests.support.pool_scenes import started_pool

TICK = 0.001

BODIES = st.sampled_from(["nothing", "yield", "sleep", "long", "stubborn", "raise", "exit"])
ACTIONS = st.one_of(
    st.tuples(st.just("submit"), BODIES),
    st.tuples(st.sampled_from(["soft", "hard", "cancel", "soft twice", "throw and submit"]), st.integers(0, 30)),
    st.tuples(st.sampled_from(["grow", "shrink"]), st.integers(1, 3)),
    st.tuples(st.just("turn"), st.integers(0, 3)),
    st.tuples(st.just("terminate"), st.just(0)),
)


class Soft(SoftTimeLimitExceeded):
    """A soft limit that knows whom it is meant for."""


class Hard(StopTask):
    """A hard one."""


class ScheduledJob:
    """One job; ``got`` is everything that was raised in it, ``began`` and ``ended`` count."""

    def __init__(self, body: str) -> None:
        self.body = body
        self.got: list[BaseException] = []
        self.hit_outside: BaseException | None = None
        self.began = self.ended = 0
        self.run: Run

    def __call__(self, run: Run) -> None:
        self.began += 1
        try:
            time.sleep(0)  # as the executor may, before and after the body: nothing may be raised here
            self._interruptible(run)
            time.sleep(0)
        except (Soft, Hard) as exc:
            self.hit_outside = exc
        finally:
            self.ended += 1
        if self.body == "exit":
            raise SystemExit(1)

    def _interruptible(self, run: Run) -> None:
        run.interruptible = True
        try:
            self._do()
        except (Soft, Hard, ValueError) as exc:
            self.got.append(exc)
        finally:
            run.interruptible = False

    def _do(self) -> None:
        if self.body == "yield":
            time.sleep(0)
        elif self.body == "sleep":
            time.sleep(TICK)
        elif self.body == "long":
            time.sleep(0.02)
        elif self.body == "raise":
            raise ValueError
        elif self.body == "stubborn":
            try:
                time.sleep(0.01)
            except Soft as exc:  # catches the soft limit and goes on, as tasks may
                self.got.append(exc)
                time.sleep(2 * TICK)


class StrayRecords(logging.Handler):
    """Keeps what the pool logs about anything but the jobs that exit on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not (record.exc_info and isinstance(record.exc_info[1], SystemExit)):
            self.records.append(record.getMessage())


STRAY = StrayRecords()


class Schedule:
    """One pool and what is done to it."""

    def __init__(self, size: int, reuse: bool) -> None:
        pool = started_pool(POOL, size, reuse=reuse)
        assert isinstance(pool, SlotPool)
        self.pool = pool
        self.jobs: list[ScheduledJob] = []
        self.meant: dict[int, ScheduledJob] = {}
        self.thrown: list[BaseException] = []  # kept alive, so that ids stay unique

    def submit(self, body: str) -> None:
        job = ScheduledJob(body)
        job.run = self.pool.submit(job)
        self.jobs.append(job)

    def throw(self, number: int, kind: type[BaseException]) -> None:
        if self.jobs:
            job = self.jobs[number % len(self.jobs)]
            exc = kind()
            self.thrown.append(exc)
            self.meant[id(exc)] = job
            job.run.throw(exc)

    def act(self, action: str, argument: object) -> None:
        number = argument if isinstance(argument, int) else 0
        if action == "submit":
            self.submit(str(argument))
        elif action in ("soft", "hard"):
            self.throw(number, Soft if action == "soft" else Hard)
        elif action == "soft twice":
            self.throw(number, Soft)
            self.throw(number, Hard)
        elif action == "throw and submit":
            self.throw(number, Hard)
            self.submit("yield")
        elif action == "cancel" and self.jobs:
            self.jobs[number % len(self.jobs)].run.cancel()
        elif action in ("grow", "shrink"):
            getattr(self.pool, action)(number)
        elif action == "turn":
            time.sleep(number * TICK)
        elif action == "terminate":
            self.pool.terminate(Hard())

    def check(self) -> None:
        assert self.pool.join(10), "jobs were lost"
        for job in self.jobs:
            assert job.run.ended
            assert job.hit_outside is None, "an exception came outside the interruptible part"
            assert (job.began, job.ended) == ((0, 0) if job.run.state is RunState.CANCELLED else (1, 1))
            assert all(self.meant.get(id(exc), job) is job for exc in job.got), "an exception hit another job"
        self.check_slots()
        assert not STRAY.records, STRAY.records
        self.pool.stop()
        assert not self.pool._slots

    def check_slots(self) -> None:
        """As many jobs as the pool has slots run at once, and not one more."""
        size, together = self.pool.size, []

        def job(run: Run) -> None:
            deadline = time.monotonic() + 5
            together.append(run)
            while len(together) < size and time.monotonic() < deadline:
                time.sleep(0)

        for _ in range(size):
            self.pool.submit(job)
        assert self.pool.busy == size
        extra = self.pool.submit(lambda run: None)
        assert self.pool.waiting == 1
        extra.cancel()
        assert self.pool.join(10)
        assert len(together) == size, f"{size} slots, {len(together)} of them ran"


def play(examples: int) -> None:
    """Check ``examples`` schedules."""

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(size=st.integers(1, 5), reuse=st.booleans(), actions=st.lists(ACTIONS, min_size=5, max_size=60))
    def schedule(size: int, reuse: bool, actions: list[tuple[str, object]]) -> None:
        played = Schedule(size, reuse)
        for action, argument in actions:
            played.act(action, argument)
        played.check()

    schedule()


if __name__ == "__main__":
    logging.getLogger("greenworker").addHandler(STRAY)
    logging.getLogger("greenworker").propagate = False
    play(int(sys.argv[2]))
    print("passed")
