"""Pools of slots under gevent, eventlet and threads: slots are never lost, throws reach one run or none."""

from __future__ import annotations

import pytest

from tests.support.greenproc import GREEN_POOLS, POOLS, run_patched

SETUP = """
import contextvars, gc, logging, threading, time
logging.disable()
from greenworker.errors import SoftTimeLimitExceeded, StopTask
from greenworker.execution.pool import CAPABILITIES, PoolClosedError, RunState
from tests.support.pool_scenes import Gate, started_pool, until
"""

every_pool = pytest.mark.parametrize("pool", POOLS)
green_pools = pytest.mark.parametrize("pool", GREEN_POOLS)


def pool_scene(pool: str, scene: str) -> None:
    assert run_patched(pool, SETUP + scene + "\nprint('passed')").splitlines()[-1] == "passed"


@every_pool
def test_at_most_size_jobs_run_at_once_and_all_run_in_order_of_arrival(pool: str) -> None:
    pool_scene(
        pool,
        """
pool, gate, begun = started_pool(POOL, 3), Gate(), []
assert pool.capabilities is CAPABILITIES[POOL]
def job(number):
    def body(run):
        begun.append(number); gate()
    return body
runs = [pool.submit(job(n)) for n in range(8)]
until(lambda: gate.inside == 3)
assert (pool.size, pool.busy, pool.waiting) == (3, 3, 5)
assert set(pool.runs()) == set(runs[:3]) and [r.state for r in runs] == [RunState.RUNNING] * 3 + [RunState.WAITING] * 5
assert pool.join(0.05) is False
gate.open()
assert pool.join(10) is True
assert (pool.busy, pool.waiting) == (0, 0) and all(run.ended for run in runs)
assert sorted(begun) == list(range(8)) and set(begun[:3]) == {0, 1, 2}
assert pool.join(0) is True and pool.run_waiting() is False
""",
    )


@every_pool
def test_no_exception_of_a_job_costs_a_slot(pool: str) -> None:
    pool_scene(
        pool,
        """
import greenlet
class Odd(BaseException): pass
pool, done = started_pool(POOL, 2), []
def failing(exc):
    def job(run):
        run.interruptible = True
        raise exc
    return job
for exc in (ValueError(), Odd(), SystemExit(1), KeyboardInterrupt(), greenlet.GreenletExit(), StopTask()):
    run = pool.submit(failing(exc))
    assert pool.join(10), exc
    assert run.state is RunState.ENDED and run.interruptible is False
gate = Gate()
for _ in range(2): pool.submit(gate)
until(lambda: gate.inside == 2)
gate.open()
assert pool.join(10) and pool.busy == 0
""",
    )


@pytest.mark.parametrize("reuse", [True, False])
@every_pool
def test_each_job_has_a_context_of_its_own(pool: str, reuse: bool) -> None:
    pool_scene(
        pool,
        f"""
variable = contextvars.ContextVar("variable", default="clean")
pool, seen = started_pool(POOL, 1, reuse={reuse}), []
variable.set("the submitter's")
def job(run):
    seen.append(variable.get()); variable.set("dirty"); time.sleep(0); assert variable.get() == "dirty"
for _ in range(3): pool.submit(job)
assert pool.join(10)
assert seen == ["clean"] * 3, seen
""",
    )


@every_pool
def test_grow_starts_those_that_wait_and_shrink_cuts_nobody(pool: str) -> None:
    pool_scene(
        pool,
        """
pool, gate = started_pool(POOL, 2), Gate()
runs = [pool.submit(gate) for _ in range(10)]
until(lambda: gate.inside == 2)
pool.grow(4)
until(lambda: gate.inside == 6)
assert (pool.size, pool.waiting) == (6, 4)
pool.shrink(5)
assert (pool.size, pool.busy, gate.inside) == (1, 6, 6)
gate.open()
assert pool.join(10) and all(run.state is RunState.ENDED for run in runs)
again = Gate()
for _ in range(3): pool.submit(again)
until(lambda: again.inside == 1)
for _ in range(20): time.sleep(0.001)
assert (again.inside, pool.waiting) == (1, 2)      # one slot is what is left
pool.shrink(5)
assert pool.size == 1
again.open()
assert pool.join(10)
""",
    )


@every_pool
def test_a_cancelled_run_is_never_called_and_one_that_began_cannot_be(pool: str) -> None:
    pool_scene(
        pool,
        """
pool, gate, called = started_pool(POOL, 1), Gate(), []
first = pool.submit(gate)
until(lambda: gate.inside == 1)
second, third = pool.submit(lambda run: called.append(2)), pool.submit(lambda run: called.append(3))
assert first.cancel() is False
assert second.cancel() is True and second.cancel() is False and second.ended
assert pool.waiting == 1
gate.open()
assert pool.join(10) and called == [3] and third.cancel() is False
""",
    )


@green_pools
def test_a_run_can_be_cancelled_between_hand_over_and_begin(pool: str) -> None:
    pool_scene(
        pool,
        """
pool, called = started_pool(POOL, 1), []
fresh = pool.submit(lambda run: called.append("fresh"))        # to a new slot
assert fresh.throw(StopTask()) is False and fresh.cancel() is True
assert pool.join(10)
parked = pool.submit(lambda run: called.append("parked"))      # to a parked one
assert parked.cancel() is True
assert pool.join(10) and called == []
pool.submit(lambda run: called.append("next"))
assert pool.join(10) and called == ["next"] and pool.busy == 0
""",
    )


@every_pool
def test_close_refuses_new_jobs_and_stop_cancels_those_that_wait(pool: str) -> None:
    pool_scene(
        pool,
        """
from greenworker.green.greens import library
from greenworker.worker.pool import make_pool
pool = make_pool(POOL, library(POOL), 1, wake=lambda: None)
pool.stop()                                            # before start
def refused():
    try: pool.submit(lambda run: None)
    except PoolClosedError as exc: return str(exc)
assert "was not started, or was closed" in refused()
pool.start()
gate, called = Gate(), []
pool.submit(gate)
until(lambda: gate.inside == 1)
waiting = pool.submit(lambda run: called.append(1))
pool.close(); pool.close()
assert refused() and pool.waiting == 1
threading.Timer(0.1, gate.open).start()
pool.stop(); pool.stop()
assert waiting.state is RunState.CANCELLED and called == [] and pool.busy == 0
""",
    )


@every_pool
def test_those_that_wait_at_close_still_run(pool: str) -> None:
    pool_scene(
        pool,
        """
pool, gate, called = started_pool(POOL, 2), Gate(), []
for _ in range(2): pool.submit(gate)
for n in range(5): pool.submit(lambda run, n=n: called.append(n))
until(lambda: gate.inside == 2)
pool.close()
gate.open()
assert pool.join(10) and sorted(called) == [0, 1, 2, 3, 4] and pool.busy == 0
""",
    )


@green_pools
def test_a_throw_reaches_a_job_wherever_it_waits(pool: str) -> None:
    pool_scene(
        pool,
        """
import queue, select, socket
near, far = socket.socketpair()
lock = threading.Lock(); lock.acquire()
waits = {
    "sleep": lambda: time.sleep(20), "recv": lambda: near.recv(1), "lock": lock.acquire,
    "event": lambda: threading.Event().wait(20), "queue": lambda: queue.Queue().get(timeout=20),
    "select": lambda: select.select([far], [], [], 20),
}
pool, outcome, runs = started_pool(POOL, 10), {}, {}
def job(name):
    def body(run):
        run.interruptible = True
        try: waits[name]()
        except BaseException as exc: outcome[name] = exc
        finally: run.interruptible = False
    return body
for name in waits: runs[name] = pool.submit(job(name))
until(lambda: len(pool.runs()) == len(waits))
time.sleep(0.05)
limit = StopTask("limit")
began = time.monotonic()
assert all(run.throw(limit) is True for run in runs.values())
assert pool.join(10) and time.monotonic() - began < 2
assert set(outcome) == set(waits)
assert all(run.interrupted is limit and run.throw(limit) is False for run in runs.values())
assert all(exc is limit or exc.__context__ is limit for exc in outcome.values()), outcome
assert not pool._slots, "a greenlet that was thrown into is not used again"
""",
    )


@green_pools
def test_a_throw_that_comes_when_the_job_is_not_interruptible_is_dropped(pool: str) -> None:
    pool_scene(
        pool,
        """
pool, steps, go = started_pool(POOL, 1), [], threading.Event()
def job(run):
    steps.append("storing"); go.wait(10)               # before the body: not interruptible
    run.interruptible = True
    try: time.sleep(0.05); steps.append("body")
    finally: run.interruptible = False
    time.sleep(0.05); steps.append("stored")
run = pool.submit(job)
until(lambda: steps)
assert run.throw(StopTask()) is True                   # it runs, so it is tried, and dropped
time.sleep(0.02)
go.set()
until(lambda: "body" in steps)
run.throw(StopTask())
assert pool.join(10) and steps == ["storing", "body", "stored"] and run.interrupted is None
""",
    )


@green_pools
def test_two_hundred_late_throws_hit_nobody_else(pool: str) -> None:
    pool_scene(
        pool,
        """
pool = started_pool(POOL, 200)
outcome = {"first": [], "second": []}
def job(which, seconds):
    def body(run):
        run.interruptible = True
        try: time.sleep(seconds); outcome[which].append("done")
        except SoftTimeLimitExceeded: outcome[which].append("limited")
        finally: run.interruptible = False
    return body
first = [pool.submit(job("first", 20)) for _ in range(200)]
until(lambda: len(pool.runs()) == 200)
for run in first: run.throw(SoftTimeLimitExceeded()); run.throw(SoftTimeLimitExceeded())
second = [pool.submit(job("second", 0.05)) for _ in range(200)]
for run in first: run.throw(SoftTimeLimitExceeded())
until(lambda: len(outcome["first"]) == 200)
for run in first: run.throw(SoftTimeLimitExceeded())
assert pool.join(10)
assert outcome == {"first": ["limited"] * 200, "second": ["done"] * 200}
""",
    )


@green_pools
def test_terminate_throws_into_those_that_run_and_cancels_the_rest(pool: str) -> None:
    pool_scene(
        pool,
        """
pool, ended = started_pool(POOL, 3), []
def job(run):
    run.interruptible = True
    try: time.sleep(20)
    except StopTask: ended.append(run)
    finally: run.interruptible = False
runs = [pool.submit(job) for _ in range(5)]
until(lambda: len(pool.runs()) == 3)
assert pool.terminate(StopTask()) == 3
assert pool.join(10) and set(ended) == set(runs[:3])
assert [run.state for run in runs[3:]] == [RunState.CANCELLED] * 2
""",
    )


@green_pools
def test_a_late_kill_by_a_tasks_own_code_does_not_cost_the_slot_or_hit_the_next(pool: str) -> None:
    pool_scene(
        pool,
        """
import greenlet
if POOL == "gevent":
    import gevent
    def kill(target, exc): gevent.kill(target, exc)
else:
    import eventlet
    def kill(target, exc): eventlet.kill(target, exc)
for exc in (greenlet.GreenletExit(), RuntimeError("late")):
    pool, targets, done = started_pool(POOL, 1), [], []
    pool.submit(lambda run: targets.append(greenlet.getcurrent()))
    assert pool.join(10)
    kill(targets[0], exc)                               # parked when it arrives
    time.sleep(0.02)
    for n in range(3): pool.submit(lambda run, n=n: done.append(n))
    assert pool.join(10) and done == [0, 1, 2], (exc, done)
    assert pool.busy == 0
""",
    )


def test_thread_locals_do_not_leak_between_jobs_on_gevent() -> None:
    pool_scene(
        "gevent",
        """
local, seen, greenlets = threading.local(), [], []
import greenlet
pool = started_pool(POOL, 1)
def leaks(run):
    seen.append(getattr(local, "value", None)); local.value = "dirty"; greenlets.append(greenlet.getcurrent())
for _ in range(3): pool.submit(leaks)
assert pool.join(10) and seen == [None] * 3, seen
assert len(set(greenlets)) == 3
del greenlets[:]
for _ in range(3): pool.submit(lambda run: greenlets.append(greenlet.getcurrent()))
assert pool.join(10) and len(set(greenlets)) == 1       # clean ones are used again
""",
    )


@green_pools
def test_without_reuse_each_job_has_a_greenlet_of_its_own(pool: str) -> None:
    pool_scene(
        pool,
        """
import greenlet
local, seen, greenlets = threading.local(), [], []
pool = started_pool(POOL, 2, reuse=False)
def job(run):
    seen.append(getattr(local, "value", None)); local.value = "dirty"; greenlets.append(greenlet.getcurrent())
for _ in range(20): pool.submit(job)
assert pool.join(10) and seen == [None] * 20 and len(set(greenlets)) == 20 and pool.busy == 0
""",
    )


@green_pools
def test_greenlets_that_ended_leave_nothing_behind(pool: str) -> None:
    pool_scene(
        pool,
        """
import greenlet
pool = started_pool(POOL, 10, reuse=False)
def job(run): threading.current_thread(); time.sleep(0)
def live(): gc.collect(); return sum(isinstance(o, greenlet.greenlet) for o in gc.get_objects())
def threads(): return len(threading._active)
for _ in range(20): pool.submit(job)
assert pool.join(10)
time.sleep(0.01)
before = live(), threads()
for _ in range(500): pool.submit(job)
assert pool.join(10)
time.sleep(0.01)
after = live(), threads()
assert after[0] <= before[0] + 5 and after[1] <= before[1] + 5, (before, after)
pool = started_pool(POOL, 50)
for _ in range(50): pool.submit(job)
assert pool.join(10) and len(pool._slots) == 50
pool.stop()
time.sleep(0.01)
assert live() <= before[0] + 5 and not pool._slots
""",
    )


@green_pools
def test_a_line_of_short_jobs_leaves_the_loop_its_turns(pool: str) -> None:
    pool_scene(
        pool,
        """
pool, done, turns = started_pool(POOL, 1), [], []
for n in range(2000): pool.submit(lambda run: done.append(True))
while len(done) < 2000:
    turns.append(len(done)); time.sleep(0)
assert len(turns) > 5, turns
""",
    )


@green_pools
def test_a_timeout_that_a_job_left_running_does_not_hit_the_next(pool: str) -> None:
    pool_scene(
        pool,
        """
import importlib, greenlet
Timeout = importlib.import_module(POOL).Timeout
from greenworker.green.greens import library
for _ in range(2):
    library(POOL).note_timeouts()  # twice is as good as once
pool, served, hit = started_pool(POOL, 1), [], []
def careless(run):
    served.append(greenlet.getcurrent())
    for _ in range(100):
        Timeout(30).cancel()  # noted and over: not kept
    Timeout(0.05)
    Timeout(0.05).start() if POOL == "gevent" else None
    if POOL == "gevent":
        Timeout.start_new(0.05)
    assert len(served[0].__dict__["greenworker_timeouts"]) < 50
def next_one(run):
    served.append(greenlet.getcurrent())
    try:
        time.sleep(0.2)
    except BaseException as exc:
        hit.append(exc)
pool.submit(careless)
assert pool.join(10)
pool.submit(next_one)
assert pool.join(10)
assert hit == [] and served[0] is served[1]
""",
    )
