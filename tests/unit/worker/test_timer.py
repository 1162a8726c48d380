"""The timer: order, cancelling, bounds, failing calls; with a clock moved by hand, and running under each library."""

from __future__ import annotations

import logging
import tracemalloc
from datetime import UTC, datetime

import pytest

from greenworker.worker.timer import PURGE_FLOOR, HeapTimer
from tests.support.greenproc import POOLS, run_patched


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def utcnow(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def timer(clock: HandClock) -> HeapTimer:
    return HeapTimer(clock)


def test_calls_are_made_when_due_in_order_of_deadline_then_of_making(timer: HeapTimer, clock: HandClock) -> None:
    made: list[str] = []
    timer.call_later(2.0, lambda: made.append("third"))
    timer.call_at(1001.0, lambda: made.append("first"))
    timer.call_later(1.0, lambda: made.append("second"))
    assert (timer.run_due(), made) == (0, [])
    clock.now = 1001.0
    assert (timer.run_due(), made) == (2, ["first", "second"])
    clock.now = 1002.0
    assert (timer.run_due(), timer.run_due(), made) == (1, 0, ["first", "second", "third"])


def test_a_cancelled_call_is_never_made_and_cancelling_late_or_twice_is_harmless(
    timer: HeapTimer, clock: HandClock
) -> None:
    made: list[str] = []
    kept, dropped = timer.call_later(1.0, lambda: made.append("kept")), timer.call_later(1.0, lambda: made.append("no"))
    dropped.cancel()
    dropped.cancel()
    assert len(timer) == 1
    clock.now += 5
    assert timer.run_due() == 1
    kept.cancel()
    assert (made, len(timer)) == (["kept"], 0)


def test_a_turn_makes_a_bounded_number_of_calls(timer: HeapTimer, clock: HandClock) -> None:
    for _ in range(25):
        timer.call_later(0.0, lambda: None)
    assert [timer.run_due(10) for _ in range(4)] == [10, 10, 5, 0]


@pytest.mark.parametrize("failure", [ValueError("broken"), SystemExit(3), KeyboardInterrupt()])
def test_a_call_that_raises_is_logged_and_the_next_is_made(
    timer: HeapTimer, caplog: pytest.LogCaptureFixture, failure: BaseException
) -> None:
    def fail() -> None:
        raise failure

    made: list[str] = []
    timer.call_later(0.0, fail)
    timer.call_later(0.0, lambda: made.append("next"))
    with caplog.at_level(logging.ERROR):
        assert timer.run_due() == 2
    assert made == ["next"]
    record = caplog.records[0]
    assert record.exc_info is not None
    assert record.exc_info[1] is failure


def test_cancelled_entries_do_not_pile_up(timer: HeapTimer) -> None:
    live = [timer.call_later(1e6 + n, lambda: None) for n in range(10)]
    for n in range(10_000):
        timer.call_later(float(n), lambda: None).cancel()
        assert len(timer._heap) <= 2 * (len(live) + PURGE_FLOOR)
    assert len(timer) == len(live)


def test_a_hundred_thousand_entries_cost_under_200_bytes_each(timer: HeapTimer) -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        entries = [timer.call_at(1e6 + n * 0.5, print) for n in range(100_000)]
        each = (tracemalloc.get_traced_memory()[0] - before) / len(entries)
    finally:
        tracemalloc.stop()
    assert each < 210  # of which 8 are this test's own list


def test_entries_dropped_by_stop_can_still_be_cancelled(timer: HeapTimer) -> None:
    entry = timer.call_later(1.0, lambda: None)
    timer.stop()
    entry.cancel()
    assert len(timer) == 0


@pytest.mark.parametrize("pool", POOLS)
def test_running_it_wakes_for_an_earlier_deadline_survives_failures_and_stops(pool: str) -> None:
    out = run_patched(
        pool,
        """
        import logging, threading, time
        logging.disable()
        from greenworker.clock import SystemClock
        from greenworker.worker.timer import HeapTimer
        timer = HeapTimer(SystemClock())
        timer.stop()                                     # stop before start
        timer.start(); timer.start()
        first, last, began = threading.Event(), threading.Event(), time.monotonic()
        times = {}
        timer.call_later(60.0, lambda: None)
        time.sleep(0.05)                                 # it waits for the far one now
        def note(name, event): times[name] = time.monotonic() - began; event.set()
        timer.call_later(0.1, lambda: 1 / 0)
        timer.call_later(0.2, lambda: note("last", last))
        timer.call_later(0.1, lambda: note("first", first))
        assert first.wait(5) and last.wait(5), times
        assert times["first"] < times["last"] < 3.0, times
        # a flood that is due at once: the timer gives others a turn between
        count, seen = [0], []
        def one(): count[0] += 1
        deadline = time.monotonic()
        for _ in range(20000): timer.call_at(deadline, one)
        while count[0] < 20000:
            seen.append(count[0]); time.sleep(0)
            assert time.monotonic() - deadline < 20
        assert len(seen) > 20, seen
        # stop waits for the call that is being made, and makes no more
        inside, ended = threading.Event(), []
        def slow(): inside.set(); time.sleep(0.2); ended.append(True)
        timer.call_later(0.0, slow)
        timer.call_later(0.05, lambda: ended.append("late"))
        assert inside.wait(5)
        timer.stop(); timer.stop()
        assert ended == [True], ended
        print("passed")
        """,
    )
    assert out == "passed\n"
