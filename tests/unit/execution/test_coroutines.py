"""Bodies of async tasks, on their own event loop, under gevent, eventlet and threads."""

from __future__ import annotations

import pytest

from tests.support.greenproc import GREEN_POOLS, POOLS, run_patched

SETUP = """
import asyncio, contextvars, logging, socket, threading, time
from greenworker.errors import SoftTimeLimitExceeded, StopTask
from greenworker.execution.coroutines import CoroutineRunner
from greenworker.green.greens import library
from tests.support.pool_scenes import started_pool, until
LIB = library(POOL)
runner = CoroutineRunner(LIB)
get_ident = LIB.original("_thread", "get_ident")
def in_pool(*bodies, size=10):
    pool, outcome = started_pool(POOL, size), [None] * len(bodies)
    def job(n, body):
        def call(run):
            run.interruptible = True
            try: outcome[n] = runner.run(body())
            except BaseException as exc: outcome[n] = exc
            finally: run.interruptible = False
        return call
    return pool, [pool.submit(job(n, body)) for n, body in enumerate(bodies)], outcome
"""

every_pool = pytest.mark.parametrize("pool", POOLS)
green_pools = pytest.mark.parametrize("pool", GREEN_POOLS)


def coroutine_scene(pool: str, scene: str) -> None:
    ending = "\nrunner.stop(); runner.stop()\nprint('passed')"
    assert run_patched(pool, SETUP + scene + ending).splitlines()[-1] == "passed"


@every_pool
def test_it_returns_what_the_coroutine_returns_and_raises_what_it_raises(pool: str) -> None:
    coroutine_scene(
        pool,
        """
runner.stop()                                       # before anything ran
async def add(a, b): await asyncio.sleep(0.01); return a + b
async def fail(): await asyncio.sleep(0); raise KeyError("missing")
async def where(): return get_ident()
assert runner.run(add(2, 3)) == 5
try: runner.run(fail())
except KeyError as exc: assert exc.args == ("missing",)
else: raise SystemExit("no KeyError")
there = runner.run(where())
assert there != get_ident() and runner.run(where()) == there    # one thread, not ours
""",
    )


@every_pool
def test_many_wait_at_once_while_others_run(pool: str) -> None:
    coroutine_scene(
        pool,
        """
async def nap(n): await asyncio.sleep(0.3); return n
pool, runs, outcome = in_pool(*[lambda n=n: nap(n) for n in range(50)], size=50)
began, turns = time.monotonic(), 0
while not all(run.ended for run in runs):
    turns += 1; time.sleep(0.001)
    assert time.monotonic() - began < 10
assert outcome == list(range(50)), outcome
assert turns > 20 and time.monotonic() - began < 5, turns
""",
    )


@every_pool
def test_the_callers_context_is_seen_and_not_changed(pool: str) -> None:
    coroutine_scene(
        pool,
        """
variable = contextvars.ContextVar("variable", default=None)
async def look():
    seen = variable.get(); variable.set("inside"); await asyncio.sleep(0); return seen, variable.get()
variable.set("caller")
assert runner.run(look()) == ("caller", "inside") and variable.get() == "caller"
""",
    )


@every_pool
def test_sockets_name_lookups_and_helper_threads_work(pool: str) -> None:
    coroutine_scene(
        pool,
        """
async def talk():
    async def serve(reader, writer):
        writer.write((await reader.readline()).upper()); await writer.drain(); writer.close()
    server = await asyncio.start_server(serve, "localhost", 0)      # looks a name up
    host, port = server.sockets[0].getsockname()[:2]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"hello\\n")
    answer = await reader.read()                                     # to the end: the server's socket was closed
    writer.close(); await writer.wait_closed(); server.close()
    return answer, await asyncio.to_thread(sum, [1, 2, 3])
assert runner.run(asyncio.wait_for(talk(), 10)) == (b"HELLO\\n", 6)
async def failing(): await asyncio.to_thread(int, "x")
try: runner.run(failing())
except ValueError: pass
else: raise SystemExit("no ValueError")
""",
    )


@green_pools
def test_a_soft_limit_is_raised_at_the_await_and_can_be_caught(pool: str) -> None:
    coroutine_scene(
        pool,
        """
begun = []
async def cleans_up():
    try: begun.append(1); await asyncio.sleep(20)
    except SoftTimeLimitExceeded as exc:
        async with asyncio.timeout(5): await asyncio.sleep(0.01)     # not taken for a cancellation any more
        return "cleaned up after", exc.args
async def does_not(): begun.append(2); await asyncio.sleep(20)
pool, runs, outcome = in_pool(cleans_up, does_not)
until(lambda: len(begun) == 2)
for run in runs: assert run.throw(SoftTimeLimitExceeded(3))
assert pool.join(5)
assert outcome[0] == ("cleaned up after", (3,)) and isinstance(outcome[1], SoftTimeLimitExceeded), outcome
""",
    )


@green_pools
def test_a_hard_limit_cancels_the_coroutine_and_waits_for_its_end(pool: str) -> None:
    coroutine_scene(
        pool,
        """
begun, steps = [], []
async def body():
    try: begun.append(1); await asyncio.sleep(20)
    except asyncio.CancelledError: steps.append("cancelled"); await asyncio.sleep(0.05); steps.append("ended"); raise
limit = StopTask()
pool, runs, outcome = in_pool(body)
until(lambda: begun)
assert runs[0].throw(limit)
assert pool.join(5) and outcome == [limit] and steps == ["cancelled", "ended"], (outcome, steps)
async def fine(): return "fine"
assert runner.run(fine()) == "fine"
""",
    )


@green_pools
def test_a_coroutine_that_does_not_end_is_left_behind(pool: str) -> None:
    coroutine_scene(
        pool,
        """
import greenworker.execution.event_loop as module
module.CANCEL_TIMEOUT = 0.2
begun, release = [], []
async def stubborn():
    begun.append(1)
    while not release:
        try: await asyncio.sleep(0.01)
        except asyncio.CancelledError: pass
pool, runs, outcome = in_pool(stubborn)
until(lambda: begun)
began = time.monotonic()
runs[0].throw(StopTask())
assert pool.join(5) and time.monotonic() - began < 3
assert isinstance(outcome[0], StopTask)
release.append(True)
""",
    )


@every_pool
def test_stop_cancels_what_runs_and_a_later_run_starts_again(pool: str) -> None:
    coroutine_scene(
        pool,
        """
entered = []
async def long(): entered.append(True); await asyncio.sleep(60)
pool, runs, outcome = in_pool(long)
until(lambda: entered)
began = time.monotonic()
runner.stop()
assert pool.join(5) and time.monotonic() - began < 4
assert isinstance(outcome[0], asyncio.CancelledError), outcome
async def fine(): return "fine"
assert runner.run(fine()) == "fine"
""",
    )
