"""The solo pool: jobs run in the loop's own thread, one at a time, when the loop asks."""

from __future__ import annotations

import contextvars

import pytest

from greenworker.errors import StopTask
from greenworker.execution.pool import Pool, PoolClosedError, Run, RunState
from greenworker.green.greens import library
from greenworker.worker.pool import make_pool


@pytest.fixture
def rings() -> list[str]:
    return []


@pytest.fixture
def pool(rings: list[str]) -> Pool:
    made = make_pool("solo", library("solo"), 1, wake=lambda: rings.append("ring"))
    made.start()
    return made


def test_submit_rings_the_loop_and_run_waiting_runs_one(pool: Pool, rings: list[str]) -> None:
    done: list[int] = []
    for number in range(2):
        pool.submit(lambda run, number=number: done.append(number))  # type: ignore[misc]
    assert (rings, done, pool.waiting, pool.busy, pool.size) == (["ring", "ring"], [], 2, 0, 1)
    assert pool.run_waiting()
    assert done == [0]
    assert pool.run_waiting()
    assert not pool.run_waiting()
    assert done == [0, 1]


def test_a_job_cannot_start_another_one_inside_itself(pool: Pool) -> None:
    order: list[str] = []

    def outer(run: Run) -> None:
        pool.submit(lambda run: order.append("inner"))
        assert pool.run_waiting() is False
        assert pool.busy == 1
        assert pool.runs() == [run]
        order.append("outer")

    pool.submit(outer)
    assert pool.join(5.0)
    assert order == ["outer", "inner"]


def test_jobs_have_contexts_of_their_own_and_whatever_they_raise_is_survived(pool: Pool) -> None:
    variable = contextvars.ContextVar("variable", default="clean")
    seen: list[str] = []

    def job(run: Run) -> None:
        seen.append(variable.get())
        variable.set("dirty")
        raise SystemExit(1)

    runs = [pool.submit(job) for _ in range(2)]
    assert pool.join(5.0)
    assert seen == ["clean", "clean"]
    assert [run.state for run in runs] == [RunState.ENDED] * 2


def test_nothing_can_be_thrown_but_what_waits_can_be_cancelled(pool: Pool) -> None:
    done: list[int] = []
    run = pool.submit(lambda run: done.append(1))
    assert run.throw(StopTask()) is False
    assert run.cancel() is True
    assert run.cancel() is False
    assert pool.run_waiting() is False
    assert not done


def test_stop_cancels_what_waits_and_closed_pools_refuse(pool: Pool) -> None:
    run = pool.submit(lambda run: None)
    pool.stop()
    pool.stop()
    assert run.state is RunState.CANCELLED
    with pytest.raises(PoolClosedError, match="was not started, or was closed"):
        pool.submit(lambda run: None)
