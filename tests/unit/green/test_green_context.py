"""What a task spawns carries the task's contextvars; what the hub runs for others does not."""

from __future__ import annotations

import pytest

from tests.support.greenproc import GREEN_POOLS, run_patched

SCENE = """
import contextvars, threading, time
from greenworker.green.greens import library
LIB = library(POOL)
LIB.install_context_inheritance(); LIB.install_context_inheritance()
task_id = contextvars.ContextVar("task_id", default=None)
seen = {}
def look(name):
    seen[name] = task_id.get()
    task_id.set("changed by " + name)      # a copy: the parent must not see it
if POOL == "gevent":
    import gevent, gevent.pool
    spawners = {"spawn": gevent.spawn, "spawn_later": lambda f, n: gevent.spawn_later(0.01, f, n),
                "pool": gevent.pool.Pool(2).spawn}
else:
    import eventlet
    spawners = {"spawn": eventlet.spawn, "spawn_n": eventlet.spawn_n,
                "spawn_after": lambda f, n: eventlet.spawn_after(0.01, f, n),
                "pool": eventlet.GreenPool(2).spawn, "pool_n": eventlet.GreenPool(2).spawn_n}
spawners["thread"] = lambda f, n: threading.Thread(target=f, args=(n,)).start()
def task():
    task_id.set("one")
    for name, spawn in spawners.items():
        spawn(look, name)
    deadline = time.monotonic() + 10
    while len(seen) < len(spawners) and time.monotonic() < deadline:
        time.sleep(0.01)
    seen["task"] = task_id.get()
contextvars.Context().run(task)
assert seen == dict.fromkeys([*spawners, "task"], "one"), seen
assert task_id.get() is None
print("passed")
"""


@pytest.mark.parametrize("pool", GREEN_POOLS)
def test_every_way_to_spawn_hands_the_context_on(pool: str) -> None:
    assert run_patched(pool, SCENE) == "passed\n"
