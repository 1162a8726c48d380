"""LoopWaiter under gevent, eventlet and plain threads: what ends a wait, and what it says."""

from __future__ import annotations

import pytest

from tests.support.greenproc import POOLS, run_patched

SETUP = """
import os, socket, threading, time
from greenworker.green.greens import library
LIB = library(POOL)
waiter = LIB.make_waiter()
near, far = socket.socketpair()
near.setblocking(False)
fd = near.fileno()
start_native = LIB.original("_thread", "start_new_thread")
native_sleep = LIB.original("time", "sleep")
def timed(call):
    began = time.monotonic(); result = call(); return result, time.monotonic() - began
"""

pytestmark = pytest.mark.parametrize("pool", POOLS)


def waiter_scene(pool: str, scene: str) -> None:
    assert run_patched(pool, SETUP + scene + "\nprint('passed')").splitlines()[-1] == "passed"


def test_a_readable_socket_ends_the_wait_and_a_timeout_says_false(pool: str) -> None:
    waiter_scene(
        pool,
        """
assert waiter.wait(fd, 0.0) is False
result, took = timed(lambda: waiter.wait(fd, 0.2))
assert result is False and 0.15 < took < 1.0, took
far.send(b"x")
result, took = timed(lambda: waiter.wait(fd, 10.0))
assert result is True and took < 1.0, took
near.recv(10)
threading.Timer(0.1, lambda: far.send(b"y")).start()
result, took = timed(lambda: waiter.wait(fd, 10.0))
assert result is True and took < 5.0, took
near.recv(10)
far.close()
assert waiter.wait(fd, 10.0) is True   # the end of the stream is the reader's to find out
""",
    )


def test_a_ring_ends_the_wait_whoever_rings_and_whenever(pool: str) -> None:
    waiter_scene(
        pool,
        """
waiter.ring()
result, took = timed(lambda: waiter.wait(fd, 10.0))
assert result is False and took < 1.0, took
assert timed(lambda: waiter.wait(fd, 0.2))[1] > 0.15        # one ring ends one wait
threading.Timer(0.1, waiter.ring).start()                   # while it waits, from a green thread (or a thread)
result, took = timed(lambda: waiter.wait(fd, 10.0))
assert result is False and took < 5.0, took
def from_native():
    native_sleep(0.1); waiter.ring()
start_native(from_native, ())                               # while it waits, from a native thread
result, took = timed(lambda: waiter.wait(fd, 10.0))
assert result is False and took < 5.0, took
rung = []
def before_wait():
    waiter.ring(); rung.append(True)
start_native(before_wait, ())                               # while nobody waits, and the hub turns
while not rung: time.sleep(0.01)
time.sleep(0.05)
assert timed(lambda: waiter.wait(fd, 10.0))[1] < 5.0
""",
    )


def test_waits_that_were_ended_early_do_not_shorten_the_next_one(pool: str) -> None:
    waiter_scene(
        pool,
        """
for _ in range(20):
    threading.Timer(0.02, waiter.ring).start()
    assert timed(lambda: waiter.wait(fd, 0.3))[1] < 0.25
assert timed(lambda: waiter.wait(fd, 0.3))[1] > 0.25
""",
    )


def test_a_loop_that_is_rung_all_the_time_still_learns_of_its_socket_and_lets_others_run(pool: str) -> None:
    waiter_scene(
        pool,
        """
turns = []
def neighbour():
    while len(turns) < 20:
        turns.append(True); time.sleep(0)
threading.Thread(target=neighbour, daemon=True).start()
far.send(b"x")
heard, waits = False, 0
while not (heard and len(turns) == 20):
    waiter.ring()
    heard = waiter.wait(fd, 5.0) or heard
    waits += 1
    assert waits < 100_000, (heard, len(turns))
""",
    )


def test_no_ring_is_lost_between_native_threads_and_the_loop(pool: str) -> None:
    waiter_scene(
        pool,
        """
from collections import deque
outbox, TOTAL, taken = deque(), 3000, 0
def produce():
    for number in range(TOTAL):
        outbox.append(number); waiter.ring()
        if number % 50 == 0: native_sleep(0.001)
start_native(produce, ())
while taken < TOTAL:
    while outbox: outbox.popleft(); taken += 1
    if taken < TOTAL:
        _, took = timed(lambda: waiter.wait(fd, 5.0))
        assert took < 4.0, f"a ring was lost at {taken}"
""",
    )


def test_another_socket_with_the_same_number_is_heard_after_one_timeout_at_most(pool: str) -> None:
    waiter_scene(
        pool,
        """
far.send(b"x")
assert waiter.wait(fd, 10.0) is True
near.close(); far.close()
again, other = socket.socketpair()      # without a turn of the hub in between
assert fd in (again.fileno(), other.fileno())
sender = other if again.fileno() == fd else again
threading.Timer(0.01, lambda: sender.send(b"x")).start()
assert waiter.wait(fd, 0.2) or waiter.wait(fd, 0.2)
""",
    )


def test_close_is_harmless_twice_and_rings_after_it_too(pool: str) -> None:
    waiter_scene(
        pool,
        """
waiter.wait(fd, 0.01)
waiter.close(); waiter.close(); waiter.ring()
done = []
start_native(lambda: (waiter.ring(), done.append(True)), ())
while not done: time.sleep(0.01)
""",
    )


def test_an_exception_thrown_into_the_wait_leaves_the_waiter_usable(pool: str) -> None:
    if pool == "threads":
        pytest.skip("nothing can be thrown into a thread")
    waiter_scene(
        pool,
        """
class Interrupt(BaseException): pass
runner, outcome = LIB.make_runner(), []
def body(handle):
    outcome.append(handle)
    try: waiter.wait(fd, 10.0)
    except Interrupt: outcome.append("interrupted")
    far.send(b"x")
    outcome.append(waiter.wait(fd, 5.0))
runner.spawn(body)
while not outcome: time.sleep(0.01)
outcome[0].throw(Interrupt(), lambda: True)
while len(outcome) < 3: time.sleep(0.01)
assert outcome[1:] == ["interrupted", True], outcome
""",
    )


def test_each_wait_has_its_whole_time_whatever_ended_the_ones_before(pool: str) -> None:
    waiter_scene(
        pool,
        """
for _ in range(3):
    assert timed(lambda: waiter.wait(fd, 0.1))[1] > 0.08      # run out
for _ in range(20):
    waiter.ring(); waiter.wait(fd, 0.1)                       # broken off
time.sleep(0.2)
assert timed(lambda: waiter.wait(fd, 0.1))[1] > 0.08
""",
    )
