"""Prefetch: slots times a multiplier, with room for deferred tasks that changes in few steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenworker.consumer.prefetch import SMALLEST_ROOM, Prefetch, room_for


@dataclass
class Slots:
    size: int


@dataclass
class Recorder:
    prefetches: list[int] = field(default_factory=list)

    def set_prefetch(self, count: int) -> None:
        self.prefetches.append(count)


def make(size: int = 10, multiplier: float = 2.0, limit: int = 1000) -> tuple[Prefetch, Slots, Recorder]:
    slots, recorder = Slots(size), Recorder()
    return Prefetch(slots, multiplier, limit), slots, recorder  # type: ignore[arg-type]


def test_follows_the_pool() -> None:
    prefetch, slots, source = make()
    assert prefetch.begin() == 20
    prefetch.apply(source, 0)  # type: ignore[arg-type]
    assert source.prefetches == []
    slots.size = 15
    prefetch.apply(source, 0)  # type: ignore[arg-type]
    assert source.prefetches == [30]


def test_never_zero_which_would_be_unlimited() -> None:
    assert make(size=1, multiplier=0.1)[0].begin() == 1


def test_deferred_tasks_leave_the_slots_their_prefetch() -> None:
    prefetch, _, source = make()
    base = prefetch.begin()
    for deferred in range(501):
        prefetch.apply(source, deferred)  # type: ignore[arg-type]
        assert prefetch.target() - deferred > base - 1
    assert len(source.prefetches) <= 5


def test_returns_to_its_baseline() -> None:
    prefetch, _, source = make()
    base = prefetch.begin()
    for deferred in [*range(0, 1000, 7), *range(1000, -1, -7), 0]:
        prefetch.apply(source, deferred)  # type: ignore[arg-type]
    assert source.prefetches[-1] == base


@given(st.lists(st.integers(0, 5_000), min_size=1), st.integers(0, 2_000))
def test_room_is_bounded_and_enough(counts: list[int], limit: int) -> None:
    room = 0
    for deferred in counts:
        room = room_for(deferred, room, limit)
        assert 0 <= room <= limit + SMALLEST_ROOM
        assert room > min(deferred, limit) or deferred == 0


@pytest.mark.parametrize("deferred", [5, 15, 16, 100])
def test_small_changes_keep_the_room(deferred: int) -> None:
    room = room_for(deferred, 0, 1000)
    assert room_for(deferred - 1, room, 1000) == room
