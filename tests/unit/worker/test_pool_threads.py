"""What is special about threads: any of them may submit, and the system may refuse another one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from greenworker.errors import StopTask
from greenworker.execution.pool import CAPABILITIES, Run
from greenworker.green.base import SlotHandle
from greenworker.green.greens import library
from greenworker.green.native import NativeRunner
from greenworker.worker.pool_threads import ThreadPool
from tests.support.pool_scenes import Gate, started_pool, until


class ShortOfThreads(NativeRunner):
    """Starts real threads, as many as are left."""

    def __init__(self, left: int) -> None:
        self.left = left

    def spawn(self, body: Callable[[SlotHandle], None]) -> None:
        if self.left == 0:
            raise RuntimeError("can't start new thread")
        self.left -= 1
        super().spawn(body)


@pytest.mark.parametrize("left", [0, 2])
def test_jobs_are_kept_when_no_thread_can_be_started(left: int, caplog: pytest.LogCaptureFixture) -> None:
    runner, gate = ShortOfThreads(left), Gate()
    pool = ThreadPool(runner, 5, CAPABILITIES["threads"])
    pool.start()
    with caplog.at_level(logging.ERROR):
        runs = [pool.submit(gate) for _ in range(5)]
    assert "no new thread can be started" in caplog.text
    until(lambda: gate.inside == left)
    runner.left = 5
    runs.append(pool.submit(gate))
    gate.open()
    assert pool.join(10)
    assert all(run.ended for run in runs)
    pool.stop()


def test_many_threads_may_submit_at_once() -> None:
    pool, lock, done = started_pool("threads", 8), threading.Lock(), [0]

    def job(run: Run) -> None:
        with lock:
            done[0] += 1

    def submit() -> None:
        for _ in range(500):
            pool.submit(job)

    submitters = [threading.Thread(target=submit) for _ in range(8)]
    for thread in submitters:
        thread.start()
    for thread in submitters:
        thread.join(20)
    assert pool.join(20)
    assert done == [4000]
    assert pool.busy == 0
    pool.stop()


def test_nothing_can_be_thrown_into_a_thread() -> None:
    pool, gate = started_pool("threads", 1), Gate()
    run = pool.submit(gate)
    until(lambda: gate.inside == 1)
    assert not pool.capabilities.limits
    assert not library("threads").make_runner().can_throw
    assert run.throw(StopTask()) is False
    assert pool.terminate(StopTask()) == 0
    gate.open()
    assert pool.join(10)
    pool.stop()
