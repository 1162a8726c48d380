"""The embedded broker's task path: deliveries, settlements, prefetch, order, leases, replacements."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenworker.broker.delivery import QueueSpec, Settlement
from greenworker.broker.publisher import Outgoing, Replacement
from greenworker.broker.sqlite.publisher import SqlitePublisher
from greenworker.broker.sqlite.sessions import Session, has_dead_sessions, release_dead_sessions
from greenworker.broker.sqlite.source import SqliteOptions
from greenworker.broker.sqlite.store import Queue, QueueStore, Row, StoreOptions
from greenworker.errors import PublishError
from tests.support.queue_file import QUEUE, Consumer, envelope, outgoing, publish


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def consumer(path: Path) -> Iterator[Consumer]:
    consumer = Consumer(path)
    yield consumer
    consumer.close()


def count(path: Path, where: str = "1") -> int:
    with sqlite3.connect(path) as db:
        found: int = db.execute(f"SELECT count(*) FROM messages WHERE {where}").fetchone()[0]
    db.close()
    return found


# --- deliveries and settlements -----------------------------------------------------------------------------------


def test_a_delivery_has_all_that_the_message_says(path: Path, consumer: Consumer) -> None:
    sent = envelope(b"\x80body", headers={"task": "shop.add", "id": "1"}, correlation_id="1", reply_to="r", priority=3)
    publish(path, Outgoing(sent, "celery"))
    (got,) = consumer.take(1)
    assert got.envelope == sent
    assert (got.queue, got.exchange, got.routing_key, got.redelivered) == ("celery", "", "celery", False)
    assert consumer.source.unsettled == 1
    assert got.ack()
    assert not got.requeue()
    consumer.source.flush()
    assert consumer.source.unsettled == 0
    assert count(path) == 0


def test_acks_are_written_together_with_the_next_claim(path: Path, consumer: Consumer) -> None:
    publish(path, *[outgoing(str(number)) for number in range(250)])
    for delivery in consumer.take(100):
        delivery.ack()
    assert count(path) == 250
    assert len(consumer.take(100)) == 100
    assert count(path) == 150


def test_no_more_than_the_prefetch_is_out_and_settling_makes_room(path: Path) -> None:
    consumer = Consumer(path, prefetch=3)
    publish(path, *[outgoing(str(number)) for number in range(6)])
    consumer.settle_down()
    assert consumer.bodies() == ["0", "1", "2"]
    consumer.source.set_prefetch(4)
    consumer.settle_down()
    assert consumer.bodies() == ["0", "1", "2", "3"]
    consumer.source.set_prefetch(2)
    for delivery in consumer.got[:2]:
        delivery.ack()
    consumer.settle_down()
    assert len(consumer.got) == 4  # two are still out, which is the limit now
    consumer.got[2].ack()
    consumer.settle_down()
    assert consumer.bodies()[4:] == ["4"]
    consumer.close()


def test_a_settlement_does_not_wait_for_the_next_delivery(path: Path) -> None:
    rounds = 10
    consumer = Consumer(path, prefetch=1)
    publish(path, *[outgoing()] * rounds)
    started = time.monotonic()
    for _ in range(rounds):
        (delivery,) = consumer.take(1)
        consumer.settle_down()
        threading.Timer(0.02, delivery.ack).start()
        while consumer.source.unsettled and not consumer.got:
            consumer.source.pump(60.0)
    took = time.monotonic() - started
    assert took < rounds * 0.5  # a poll would find each only after about a second
    assert count(path) == 0
    consumer.close()


def test_a_requeued_message_comes_again_at_its_old_place_and_says_so(path: Path, consumer: Consumer) -> None:
    publish(path, *[outgoing(str(number)) for number in range(3)])
    first, second, third = consumer.take(3)
    assert first.requeue()
    third.ack()
    (again,) = consumer.take(1)
    assert (again.envelope.body, again.redelivered) == ("0", True)
    assert again.tag != first.tag
    second.ack()
    again.ack()
    consumer.source.flush()
    assert count(path) == 0


def test_a_requeue_wakes_other_consumers(path: Path, consumer: Consumer) -> None:
    publish(path, outgoing())
    (delivery,) = consumer.take(1)
    other = Consumer(path)
    other.settle_down()
    consumer.source.stop()
    delivery.requeue()
    consumer.source.flush()
    assert other.waiter.wait(other.source._upkeep.bell.fileno(), 5.0)
    assert other.take(1)[0].redelivered
    other.close()


def test_close_gives_every_unsettled_delivery_back_and_writes_the_outbox(path: Path) -> None:
    consumer = Consumer(path, prefetch=1_000)
    publish(path, *[outgoing(str(number)) for number in range(350)])
    deliveries = consumer.take(350)
    for delivery in deliveries[:50]:
        delivery.ack()
    consumer.source.stop()
    consumer.close()
    consumer.close()
    assert consumer.source.closed
    assert count(path) == count(path, "owner IS NULL") == 300
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM sessions").fetchone() == (0,)
    db.close()
    assert deliveries[60].ack()  # too late: it belongs to the queue again
    assert count(path) == 300


def test_after_stop_nothing_is_delivered_but_settlements_go_out(path: Path, consumer: Consumer) -> None:
    publish(path, outgoing("1"))
    (delivery,) = consumer.take(1)
    consumer.source.stop()
    publish(path, outgoing("2"))
    consumer.settle_down()
    assert consumer.got == []
    delivery.ack()
    consumer.source.pump(0.0)
    assert count(path) == 1


def test_one_consumer_never_gets_what_another_has(path: Path, consumer: Consumer) -> None:
    other = Consumer(path)
    publish(path, *[outgoing(str(number)) for number in range(60)])
    deadline = time.monotonic() + 10
    while len(consumer.got) + len(other.got) < 60 and time.monotonic() < deadline:
        consumer.source.pump(0.0)
        other.source.pump(0.0)
    assert sorted(map(int, [*consumer.bodies(), *other.bodies()])) == list(range(60))
    other.close()


def test_queues_can_be_added_and_cancelled(path: Path, consumer: Consumer) -> None:
    more = QueueSpec("more")
    publish(path, outgoing("m", more))
    consumer.settle_down()
    assert consumer.got == []
    consumer.source.add_queue(more)
    assert consumer.take(1)[0].queue == "more"
    consumer.source.cancel_queue("more")
    consumer.source.cancel_queue("never consumed")
    publish(path, outgoing("m", more), outgoing("c"))
    assert consumer.take(1)[0].queue == "celery"
    consumer.settle_down()
    assert consumer.got == []


def test_a_large_body_comes_whole_and_does_not_bring_a_hundred_others_along(path: Path, consumer: Consumer) -> None:
    publish(path, *[outgoing(b"x" * 9_000_000)] * 3)
    consumer.source.pump(0.0)
    assert len(consumer.got) == 2  # 16 MiB a batch
    assert len(consumer.take(3)[2].envelope.body) == 9_000_000


def test_a_source_is_pumped_and_lives_on_no_hub(consumer: Consumer) -> None:
    with pytest.raises(NotImplementedError):
        consumer.source.register(object(), lambda: None)
    consumer.source.turn()
    consumer.source.unregister(object())


# --- order --------------------------------------------------------------------------------------------------------


def test_a_higher_priority_comes_first_and_equals_in_order(path: Path, consumer: Consumer) -> None:
    publish(path, *[outgoing(f"{priority}{name}", priority=priority) for name in "ab" for priority in (0, 9, 5)])
    publish(path, outgoing("none"))
    consumer.settle_down()
    assert consumer.bodies() == ["9a", "9b", "5a", "5b", "0a", "0b", "none"]


@pytest.mark.parametrize("prefetch", [40, 1_000])
def test_weights_share_out_the_first_thousand(path: Path, prefetch: int) -> None:
    big, small = QueueSpec("big", weight=3), QueueSpec("small", weight=1)
    consumer = Consumer(path, [big, small], prefetch=prefetch)
    publish(path, *[outgoing("b", big)] * 1_000, *[outgoing("s", small)] * 1_000)
    taken: Counter[str] = Counter()
    for _ in range(1_000):
        (delivery,) = consumer.take(1)
        taken[delivery.queue] += 1
        if prefetch < 1_000:
            delivery.ack()
    assert abs(taken["big"] - 750) <= 1
    assert taken.total() == 1_000
    consumer.close()


def test_equal_queues_take_turns_and_an_empty_one_holds_nothing_up(path: Path) -> None:
    one, two, none = QueueSpec("one"), QueueSpec("two"), QueueSpec("none")
    consumer = Consumer(path, [none, one, two], prefetch=10)
    publish(path, *[outgoing("1", one)] * 20, *[outgoing("2", two)] * 4)
    consumer.settle_down()
    assert Counter(consumer.bodies()) == {"1": 6, "2": 4}
    assert consumer.bodies()[:4].count("1") == 2
    consumer.close()


def test_in_strict_order_the_first_queue_comes_first_and_never_waits_for_the_second(path: Path) -> None:
    first, second = QueueSpec("first", weight=1), QueueSpec("second", weight=9)
    consumer = Consumer(path, [first, second], prefetch=20, options=SqliteOptions(strict_order=True))
    publish(path, *[outgoing("2", second)] * 30, *[outgoing("1", first)] * 15)
    consumer.settle_down()
    assert consumer.bodies() == ["1"] * 15 + ["2"] * 20
    publish(path, *[outgoing("1", first)] * 10)  # the second has all of its window: that does not concern the first
    consumer.settle_down()
    assert consumer.bodies()[35:] == ["1"] * 5
    consumer.got[0].ack()
    consumer.settle_down()
    assert consumer.bodies()[40:] == ["1"]
    assert consumer.source.unsettled == 40
    consumer.close()


def test_in_strict_order_nothing_is_taken_from_behind_a_queue_that_has_more(path: Path) -> None:
    first, second = QueueSpec("first"), QueueSpec("second")
    consumer = Consumer(path, [first, second], prefetch=10, options=SqliteOptions(strict_order=True))
    publish(path, *[outgoing("1", first)] * 30, *[outgoing("2", second)] * 5)
    for _ in range(20):
        consumer.settle_down()
        assert consumer.bodies() == ["1"] * 10
        consumer.got.pop(0).ack()
    consumer.settle_down()
    assert consumer.bodies() == ["1"] * 10  # the last of them: the window is full all the same
    consumer.got.pop(0).ack()
    consumer.settle_down()
    assert consumer.bodies() == ["1"] * 9 + ["2"] * 5
    consumer.close()


# --- parked messages ------------------------------------------------------------------------------------------------


def test_a_parked_message_is_not_seen_before_it_is_due_and_wakes_the_consumer_then(path: Path) -> None:
    consumer = Consumer(path)
    publish(path, outgoing("later", delay=0.4), outgoing("now"))
    published = time.monotonic()
    assert consumer.take(1)[0].envelope.body == "now"
    (late,) = consumer.take(1)
    took = time.monotonic() - published
    assert late.envelope.body == "later"
    assert not late.redelivered
    assert took >= 0.35  # the wall clock decides, so a little less on the monotonic one may be
    assert took < 0.9  # woken when due, not by the poll
    consumer.close()


def test_many_parked_messages_fall_due_at_once(path: Path, consumer: Consumer) -> None:
    consumer.source.set_prefetch(1_000)
    publish(path, *[outgoing(str(number), delay=0.05) for number in range(450)])
    assert len(consumer.take(450)) == 450


# --- leases -----------------------------------------------------------------------------------------------------------


def test_a_lease_is_kept_while_the_consumer_lives(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    consumer = Consumer(path, options=SqliteOptions(lease_timeout=0.6))
    other = Consumer(path)
    publish(path, outgoing())
    (delivery,) = consumer.take(1)
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        consumer.source.pump(0.05)
        other.source.pump(0.0)
    assert other.got == []
    delivery.ack()
    consumer.source.flush()
    assert count(path) == 0
    assert "lease" not in caplog.text
    consumer.close()
    other.close()


def test_a_lost_lease_redelivers_elsewhere_and_the_late_ack_does_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = Consumer(path, options=SqliteOptions(lease_timeout=0.3))
    publish(path, outgoing("1"), outgoing("2"))
    mine, unfinished = stuck.take(2)
    other = Consumer(path)
    theirs = other.take(2)  # while ``stuck`` is not pumped, its lease runs out
    assert [delivery.redelivered for delivery in theirs] == [True, True]
    mine.ack()
    unfinished.requeue()
    stuck.source.flush()
    assert count(path) == 2
    assert "after their lease had run out" in caplog.text
    publish(path, outgoing("3"))
    assert stuck.take(1)[0].envelope.body == "3"  # under a new lease
    for delivery in theirs:
        delivery.ack()
    other.source.flush()
    assert count(path) == 1
    stuck.close()
    other.close()
    assert count(path, "owner IS NULL") == 1


def test_what_was_finished_after_the_lease_but_not_handed_on_yet_is_settled(path: Path) -> None:
    stuck = Consumer(path, options=SqliteOptions(lease_timeout=0.2))
    publish(path, outgoing())
    (delivery,) = stuck.take(1)
    store = QueueStore(path, StoreOptions())
    deadline = time.monotonic() + 10
    while not has_dead_sessions(store) and time.monotonic() < deadline:
        time.sleep(0.01)
    with store.transaction() as tx:
        assert release_dead_sessions(tx) == 1
    delivery.ack()
    stuck.source.flush()
    assert count(path) == 0
    store.close()
    stuck.close()


def test_a_reused_row_never_makes_a_stale_tag_valid(path: Path) -> None:
    consumer = Consumer(path)
    publish(path, outgoing("1"))
    (first,) = consumer.take(1)
    first.ack()
    consumer.source.flush()
    publish(path, outgoing("2"))
    (second,) = consumer.take(1)
    assert second.tag != first.tag
    consumer.source.settle(first, Settlement.ACK)
    consumer.source.flush()
    assert count(path) == 1
    consumer.close()


def test_sessions_of_another_boot_are_dead_at_once(path: Path) -> None:
    consumer = Consumer(path)
    publish(path, outgoing())
    consumer.take(1)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE sessions SET boot = 'before the power cut', lease_until = lease_until + 1e6")
    db.close()
    other = Consumer(path)
    assert other.take(1)[0].redelivered
    other.close()
    consumer.close()


def test_a_session_given_up_cannot_be_renewed_and_begins_anew(path: Path) -> None:
    now = 1_000.0
    store = QueueStore(path, StoreOptions(create=True))
    session = Session(store, 60.0, lambda: now)
    first = session.id
    assert not session.renew_due
    now += 20
    assert session.renew_due
    with store.transaction() as tx:
        assert session.renew(tx)
    assert session.id == first
    now += 61
    assert has_dead_sessions(store, lambda: now)
    with store.transaction() as tx:
        release_dead_sessions(tx, lambda: now)
        assert not session.renew(tx)
    assert session.id != first
    assert not has_dead_sessions(store, lambda: now)
    store.close()


# --- the publisher ------------------------------------------------------------------------------------------------


def replacement(delivery: object, message: Outgoing) -> Replacement:
    return Replacement(delivery, message)  # type: ignore[arg-type]


def test_a_replacement_comes_and_its_delivery_goes_in_one_step(path: Path, consumer: Consumer) -> None:
    publish(path, outgoing("first try"))
    (delivery,) = consumer.take(1)
    publisher = SqlitePublisher(path)
    publisher.replace([replacement(delivery, outgoing("second try", delay=0.2))])
    assert delivery.settled is Settlement.ACK
    assert count(path) == count(path, "visible_at IS NOT NULL") == 1
    consumer.source.pump(0.0)
    assert consumer.source.unsettled == 0
    assert consumer.take(1)[0].envelope.body == "second try"
    publisher.close()


def test_a_failed_replacement_leaves_the_delivery_as_it_was(path: Path, consumer: Consumer) -> None:
    publish(path, outgoing())
    (delivery,) = consumer.take(1)
    publisher = SqlitePublisher(path)
    with pytest.raises(PublishError):
        publisher.replace([replacement(delivery, Outgoing(envelope(), "no such queue"))])
    assert delivery.settled is None
    delivery.ack()
    consumer.source.flush()
    assert count(path) == 0
    publisher.close()


def test_what_another_consumer_has_by_now_is_not_replaced(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stuck = Consumer(path, options=SqliteOptions(lease_timeout=0.2))
    publish(path, outgoing("original"))
    (delivery,) = stuck.take(1)
    other = Consumer(path)
    other.take(1)
    publisher = SqlitePublisher(path)
    with caplog.at_level(logging.WARNING):
        publisher.replace([replacement(delivery, outgoing("twice"))])
    assert "no longer ours" in caplog.text
    assert count(path) == 1
    publisher.close()
    stuck.close()
    other.close()


def test_a_settled_delivery_is_not_replaced(path: Path, consumer: Consumer) -> None:
    publish(path, outgoing())
    (delivery,) = consumer.take(1)
    delivery.requeue()
    publisher = SqlitePublisher(path)
    publisher.replace([replacement(delivery, outgoing("second"))])
    assert consumer.take(1)[0].envelope.body == "[]"
    assert count(path) == 1
    publisher.close()


def test_a_missing_queue_is_an_error_that_names_those_there_are(path: Path, consumer: Consumer) -> None:
    publisher = SqlitePublisher(path)
    with pytest.raises(PublishError, match=r"'selery'.*celery"):
        publisher.publish([Outgoing(envelope(), "selery")])
    publisher.close()


def test_exchanges_route_as_their_type_says(path: Path) -> None:
    specs = [
        QueueSpec("d1", exchange="direct", routing_key="red"),
        QueueSpec("d2", exchange="direct", routing_key="blue"),
        QueueSpec("t1", exchange="topic", exchange_type="topic", routing_key="a.*"),
        QueueSpec("t2", exchange="topic", exchange_type="topic", routing_key="#"),
        QueueSpec("f1", exchange="fanout", exchange_type="fanout"),
        QueueSpec("f2", exchange="fanout", exchange_type="fanout"),
    ]
    consumer = Consumer(path, specs)
    publisher = SqlitePublisher(path)

    def reached(exchange: str, routing_key: str) -> list[str]:
        publisher.publish([Outgoing(envelope(), routing_key, exchange)])
        consumer.settle_down()
        queues = sorted(delivery.queue for delivery in consumer.got)
        assert {(delivery.exchange, delivery.routing_key) for delivery in consumer.got} == {(exchange, routing_key)}
        consumer.got.clear()
        return queues

    assert reached("direct", "red") == ["d1"]
    assert reached("topic", "a.b") == ["t1", "t2"]
    assert reached("topic", "x") == ["t2"]
    assert reached("fanout", "whatever") == ["f1", "f2"]
    with pytest.raises(PublishError):
        publisher.publish([Outgoing(envelope(), "green", "direct")])
    publisher.close()
    consumer.close()


def test_publishers_in_many_threads_lose_nothing(path: Path) -> None:
    consumer = Consumer(path, prefetch=10_000)
    publisher = SqlitePublisher(path)
    threads = [threading.Thread(target=lambda: [publisher.publish([outgoing()]) for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert len(consumer.take(400)) == 400
    for thread in threads:
        thread.join(10)
    publisher.close()
    consumer.close()


# --- expiry -----------------------------------------------------------------------------------------------------------


def test_expired_messages_go_and_persistent_ones_stay(path: Path, consumer: Consumer) -> None:
    consumer.source.stop()
    publish(path, outgoing("transient", delivery_mode=1, expiration="1"), outgoing("persistent", expiration="1"))
    consumer.pump_until(lambda: count(path) == 1)


def test_a_queue_without_a_consumer_expires_with_what_is_in_it(path: Path, consumer: Consumer) -> None:
    store = QueueStore(path, StoreOptions())
    with store.transaction() as tx:
        store.declare_queue(tx, Queue("reply", expires_after=0.2))
        store.declare_exchange(tx, "replies", "direct")
        store.bind(tx, "reply", "replies", "reply")
        store.put(tx, [Row("reply", 0, "{}", "x")] * 250)
    consumer.pump_until(lambda: not store.has_queue("reply"))
    assert count(path, "queue = 'reply'") == 0
    assert store.bindings("replies") == []
    store.close()


def test_a_consumed_queue_does_not_expire(path: Path) -> None:
    spec = QueueSpec("short", arguments={"x-expires": 2_000})
    consumer = Consumer(path, [spec])
    store = QueueStore(path, StoreOptions())
    end = time.monotonic() + 3.5
    while time.monotonic() < end:
        consumer.source.pump(0.1)
        assert store.has_queue("short")
    store.close()
    consumer.close()


def test_a_consumed_queue_that_vanished_is_made_again(path: Path, consumer: Consumer) -> None:
    store = QueueStore(path, StoreOptions())
    store.delete_queue("celery")
    consumer.pump_until(lambda: store.has_queue("celery"))
    publish(path, outgoing("again", QUEUE))
    assert consumer.take(1)[0].envelope.body == "again"
    store.close()


# --- plans and sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "SELECT m.id FROM messages m JOIN contents c ON c.id = m.id WHERE m.queue = 'q' AND m.owner IS NULL"
        " AND m.visible_at IS NULL ORDER BY m.priority DESC, m.id LIMIT 1",
        "SELECT min(visible_at) FROM messages WHERE queue = 'q' AND visible_at IS NOT NULL",
        "SELECT id FROM messages WHERE queue = 'q' AND visible_at IS NOT NULL AND visible_at <= 1 ORDER BY visible_at",
        "SELECT id FROM messages WHERE owner = 1 LIMIT 100",
        "SELECT value, EXISTS (SELECT 1 FROM messages WHERE queue = value AND owner IS NULL AND visible_at IS NULL),"
        " (SELECT min(visible_at) FROM messages WHERE queue = value AND visible_at IS NOT NULL) FROM json_each('[]')",
        "SELECT 1 FROM messages WHERE expires_at IS NOT NULL AND owner IS NULL AND expires_at <= 1",
    ],
)
def test_no_query_on_the_message_path_scans_or_sorts(path: Path, query: str) -> None:
    store = QueueStore(path, StoreOptions(create=True))
    plan = [row[3] for row in store.read(f"EXPLAIN QUERY PLAN {query}")]
    store.close()
    assert not [step for step in plan if "TEMP B-TREE" in step or step.startswith("SCAN m")], plan


def test_sizes_and_purge_count_what_is_waiting(path: Path) -> None:
    consumer = Consumer(path, prefetch=10)
    publish(path, *[outgoing()] * 260, *[outgoing(delay=60)] * 5)
    consumer.take(10)
    store = QueueStore(path, StoreOptions())
    assert store.size("celery") == 250
    assert store.size("celery", at_most=100) == 100
    assert store.purge("celery") == 255
    assert count(path) == 10  # those that are out are not purged
    store.close()
    consumer.close()
