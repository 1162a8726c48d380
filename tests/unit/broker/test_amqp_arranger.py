"""How deliveries that wait in the process are handed out, and how a prefetch is shared out."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenworker.broker.amqp.arranger import Arranger
from greenworker.broker.amqp.prefetch import MANY_CHANNELS, MAX_WINDOW, split_prefetch, split_windows
from greenworker.broker.delivery import Delivery, Envelope, QueueSpec, Settlement
from tests.support.worker import wait_until

PREFETCH = 20


class Nowhere:
    closed = False

    def settle(self, delivery: Delivery, settlement: Settlement) -> None:
        raise AssertionError("an arranger settles nothing")


def delivery(queue: str, tag: int = 1) -> Delivery:
    return Delivery(tag, queue, Envelope(b"", None, None, {}, {}), "", queue, False, Nowhere())


def has_nothing(queue: str) -> bool:
    """The broker's answer: no message waits there."""
    return False


def arranger_of(weights: dict[str, int], *, strict: bool = False) -> tuple[Arranger, list[Delivery]]:
    out: list[Delivery] = []
    made = Arranger(out.append, has_nothing, strict=strict)
    made.set_queues(weights)
    return made, out


@pytest.mark.parametrize("prefetch", [1, 4, 20, 1000])
def test_by_weight_the_first_1000_are_750_to_250(prefetch: int) -> None:
    """Both queues have more: a broker that refills each queue's share while the last one is worked on."""
    arranger, out = arranger_of({"a": 3, "b": 1})
    while len(out) < 1000:
        for queue in ("a", "b"):
            while sum(d.queue == queue for d in out) + len(arranger._buffers[queue]) < 10_000 and (
                len(arranger._buffers[queue]) < prefetch
            ):
                arranger.add(delivery(queue))
        arranger.release(prefetch, prefetch, time.monotonic())
    assert abs(Counter(d.queue for d in out[:1000])["a"] - 750) <= prefetch


def test_a_queue_that_was_empty_for_a_moment_catches_up_and_for_long_does_not_starve_others() -> None:
    arranger, out = arranger_of({"a": 1, "b": 1})
    for _ in range(1000):
        arranger.add(delivery("b"))
    arranger.release(500, PREFETCH, time.monotonic())
    assert {d.queue for d in out} == {"b"}
    for _ in range(1000):
        arranger.add(delivery("a"))
    del out[:]
    arranger.release(200, PREFETCH, time.monotonic())
    counts = Counter(d.queue for d in out)
    assert 100 < counts["a"] <= 100 + PREFETCH


def test_strict_order() -> None:
    arranger, out = arranger_of({"a": 1, "b": 9}, strict=True)
    for number in range(5):
        arranger.add(delivery("b", number))
        arranger.add(delivery("a", number))
    arranger.release(7, PREFETCH, time.monotonic())
    assert [(d.queue, d.tag) for d in out] == [("a", tag) for tag in range(5)] + [("b", 0), ("b", 1)]
    assert arranger.waiting == 3


@pytest.mark.parametrize("strict", [True, False])
def test_a_queue_with_a_backlog_is_waited_for_and_one_without_is_not(strict: bool) -> None:
    """A window that was full tells of a backlog. All that was here of it is settled: more of it is on its way."""
    out: list[Delivery] = []
    arranger = Arranger(out.append, has_nothing, strict=strict)
    arranger.set_queues({"a": 100, "b": 1}, {"a": 4, "b": 4})
    for queue in "aaaab":
        arranger.add(delivery(queue))
    arranger.release(4, PREFETCH, time.monotonic())
    assert [d.queue for d in out] == ["a"] * 4
    for _ in range(4):
        arranger.settled("a")
    arranger.release(4, PREFETCH, time.monotonic())
    assert arranger.awaiting
    assert len(out) == 4, "b took the turn of a"
    for _ in range(4):
        arranger.add(delivery("a"))
    arranger.release(3, PREFETCH, time.monotonic())
    assert [d.queue for d in out[4:]] == ["a"] * 3
    arranger.release(1, PREFETCH, time.monotonic())
    for _ in range(4):
        arranger.settled("a")

    def b_is_out() -> bool:
        arranger.release(4, PREFETCH, time.monotonic())
        return out[-1].queue == "b"

    wait_until(b_is_out, 5.0, "the patience with a is over")
    assert not arranger.awaiting
    arranger.add(delivery("b"))
    arranger.release(1, PREFETCH, time.monotonic())
    assert [d.queue for d in out[8:]] == ["b", "b"]


def test_a_queue_is_waited_for_as_long_as_the_broker_says_that_it_has_more() -> None:
    """A slow broker is no empty queue. Patience alone would have ended the wait, and cost the queue its share."""
    out: list[Delivery] = []
    answers = [True, True, False]
    asked: list[str] = []

    def has_backlog(queue: str) -> bool:
        asked.append(queue)
        return answers[len(asked) - 1]

    arranger = Arranger(out.append, has_backlog, strict=False)
    arranger.set_queues({"a": 100, "b": 1}, {"a": 4, "b": 4})
    arranger.add(delivery("b"))  # and nothing of a: its consumer has just begun

    def b_is_out() -> bool:
        arranger.release(4, PREFETCH, time.monotonic())
        assert bool(out) == (len(asked) == len(answers))
        return bool(out)

    wait_until(b_is_out, 5.0, "the broker has said that a has no more")
    assert asked == ["a"] * 3


def test_no_more_than_the_room_and_the_rest_can_be_taken_back() -> None:
    arranger, out = arranger_of({"a": 1, "b": 1})
    for queue in ("a", "b", "a"):
        arranger.add(delivery(queue))
    arranger.release(0, PREFETCH, time.monotonic())
    arranger.release(-3, PREFETCH, time.monotonic())
    assert out == []
    assert [d.queue for d in arranger.take_all("a")] == ["a", "a"]
    assert arranger.waiting == 1
    arranger.set_queues({"c": 1})  # b is consumed no more, what came of it is not lost
    arranger.add(delivery("c"))
    arranger.release(10, PREFETCH, time.monotonic())
    assert sorted(d.queue for d in out) == ["b", "c"]
    assert arranger.waiting == 0
    assert arranger.take_all() == []


@given(st.integers(1, 5_000_000))
def test_shares_of_a_prefetch_fit_16_bits_and_are_never_0(prefetch: int) -> None:
    shares = split_prefetch(prefetch)
    assert sum(shares) == prefetch
    assert all(1 <= share <= MAX_WINDOW for share in shares)
    assert max(shares) - min(shares) <= 1


def test_a_channel_has_few_outstanding_while_there_are_channels_enough() -> None:
    assert split_prefetch(1_999) == [1_999]
    assert split_prefetch(10_001) == [1_667] * 5 + [1_666]
    assert len(split_prefetch(100_000)) == MANY_CHANNELS
    assert len(split_prefetch(40 * MAX_WINDOW)) == 40


@given(st.integers(1, MAX_WINDOW), st.lists(st.integers(1, 100), min_size=1, max_size=8), st.booleans())
def test_windows_fit_16_bits_and_let_each_queue_have_everything(
    prefetch: int, weights: list[int], strict: bool
) -> None:
    queues = [QueueSpec(f"q{number}", weight=weight) for number, weight in enumerate(weights)]
    windows = split_windows(prefetch, queues, strict=strict)
    assert set(windows) == {queue.name for queue in queues}
    assert all(min(prefetch, MAX_WINDOW) <= window <= MAX_WINDOW for window in windows.values())


def test_no_queue_has_no_windows() -> None:
    assert split_windows(10, [], strict=False) == {}
