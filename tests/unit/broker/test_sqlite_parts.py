"""The small parts of the embedded broker: queue order, topics, heads, bells, tags."""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from greenworker.broker.delivery import QueueSpec
from greenworker.broker.sqlite.bell import Bell, Ringer
from greenworker.broker.sqlite.content import pack_envelope, priority_of, time_to_live_of
from greenworker.broker.sqlite.order import QueueOrder
from greenworker.broker.sqlite.routing import topic_matches
from greenworker.broker.sqlite.store import parse_tag
from greenworker.broker.virtual import decode_message, envelope_of
from greenworker.errors import EncodeError
from tests.support.queue_file import envelope


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.b", "axb", False),
        ("*.b", "a.b", True),
        ("*.b", "a.a.b", False),
        ("*", "a.b", False),
        ("#", "", True),
        ("#", "a.b.c", True),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("a.#", "ab.c", False),
        ("#.c", "c", True),
        ("#.c", "a.b.c", True),
        ("#.c", "a.b.cc", False),
        ("a.#.z", "a.z", True),
        ("a.#.z", "a.b.c.z", True),
        ("a.*.#", "a", False),
        ("a.*.#", "a.b", True),
        ("task.#.+", "task.x.+", True),
    ],
)
def test_topic_patterns_follow_amqp(pattern: str, key: str, matches: bool) -> None:
    assert topic_matches(pattern, key) is matches


def make_order(**weights: int) -> QueueOrder:
    order = QueueOrder()
    for name, weight in weights.items():
        order.add(QueueSpec(name, weight=weight))
    return order


def test_weights_hold_over_many_small_batches() -> None:
    order = make_order(big=3, small=1)
    picks = Counter(pick for _ in range(200) for pick in order.plan(5, ["big", "small"]))
    assert picks == {"big": 750, "small": 250}


def test_picks_of_queues_interleave() -> None:
    assert make_order(a=1, b=1).plan(4, ["a", "b"]) == ["a", "b", "a", "b"]
    assert make_order(a=3, b=1).plan(4, ["a", "b"]).count("a") == 3
    assert make_order(a=3, b=1).plan(4, []) == []


def test_a_queue_that_was_empty_has_no_claim_to_what_others_got_meanwhile() -> None:
    order = make_order(a=1, b=1)
    order.plan(100, ["a"])
    order.empty("b")
    assert Counter(order.plan(10, ["a", "b"])) == {"a": 5, "b": 5}


def test_a_head_keeps_what_a_message_says_and_nothing_of_the_transport() -> None:
    before = envelope(
        b"\x00\xff", headers={"id": "1", "n": [1, None, {"a": "ü"}]}, correlation_id="c", priority=4, delivery_tag="old"
    )
    head = decode_message(pack_envelope(before, "exchange", "key"))
    assert head["properties"]["delivery_info"] == {"exchange": "exchange", "routing_key": "key"}
    after = envelope_of(head, before.body)
    assert after.body == before.body
    assert after.headers == before.headers
    assert after.properties == {"delivery_mode": 2, "correlation_id": "c", "priority": 4}
    assert (after.content_type, after.content_encoding) == ("application/json", "utf-8")


def test_headers_with_dates_survive_and_others_are_an_error() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    head = decode_message(pack_envelope(envelope(headers={"at": now}), "", "q"))
    assert head["headers"] == {"at": now}
    with pytest.raises(EncodeError, match="headers or properties"):
        pack_envelope(envelope(headers={"bad": object()}), "", "q")


@pytest.mark.parametrize(("value", "priority"), [(None, 0), (0, 0), (9, 9), ("7", 7), (-3, 0), (999, 255), ("x", 0)])
def test_priorities_are_bounded(value: object, priority: int) -> None:
    assert priority_of({"priority": value}) == priority
    assert priority_of({}) == 0


def test_expiration_counts_for_transient_messages_alone() -> None:
    assert time_to_live_of({"delivery_mode": 1, "expiration": "1500"}) == 1.5
    assert time_to_live_of({"delivery_mode": 2, "expiration": "1500"}) is None
    assert time_to_live_of({"delivery_mode": 1, "expiration": "soon"}) is None
    assert time_to_live_of({}) is None


def test_tags_name_row_and_attempt() -> None:
    assert parse_tag("12.3") == (12, 3)


@pytest.mark.parametrize("depth", [1, 60])
def test_bells_ring_whatever_the_length_of_their_path(tmp_path: Path, depth: int) -> None:
    folder = tmp_path.joinpath(*["deep"] * depth)
    folder.mkdir(parents=True)
    bell, ringer = Bell(folder), Ringer(folder)
    assert not bell.wait(0.01)
    ringer.ring()
    ringer.ring()
    assert bell.wait(5.0)
    assert not bell.wait(0.01)  # both rings were taken by one wait
    ringer.ring(but=bell.name)
    assert not bell.wait(0.01)
    bell.close()
    bell.close()
    ringer.ring()
    ringer.close()
    assert list(folder.iterdir()) == []


def test_a_full_bell_counts_as_rung(tmp_path: Path) -> None:
    bell, ringer = Bell(tmp_path), Ringer(tmp_path)
    for _ in range(5_000):
        ringer.ring()
    assert bell.wait(1.0)
    assert not bell.wait(0.01)
    bell.close()
    ringer.close()


def test_the_bell_of_a_dead_process_is_taken_down_by_the_next_ring(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        Bell(tmp_path)
        os._exit(0)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1
    ringer = Ringer(tmp_path)
    ringer.ring()
    ringer.close()
    assert list(tmp_path.iterdir()) == []
