"""RedisSource on a real Redis: deliveries, settlements, prefetch, order of queues, leases, sweeps, waiting."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from greenworker.broker.connection import ConnectionLostError
from greenworker.broker.delivery import QueueSpec, Settlement
from greenworker.broker.redis.keys import PARKED, SESSIONS, UNACKED, UNACKED_INDEX, queue_key
from greenworker.broker.redis.restore import DEAD, STALE
from greenworker.errors import BrokerError
from tests.support.greenproc import POOLS, run_patched
from tests.support.redis_scenes import QUEUE, Consumer, Keys, consuming, open_publisher, outgoing, publish
from tests.support.worker import wait_until


def test_a_message_arrives_as_it_was_sent_and_its_ack_counts(redis_url: str) -> None:
    queue = QueueSpec("q", exchange="shop", exchange_type="topic", routing_key="orders.#")
    sent = outgoing(1, queue, priority=5, reply_to="me")
    publisher = open_publisher(redis_url)
    with consuming(redis_url, [queue]) as consumer:
        publisher.publish([type(sent)(sent.envelope, "orders.new", exchange="shop", queue=queue)])
        [delivery] = consumer.take(1)
        assert delivery.envelope == sent.envelope
        assert (delivery.queue, delivery.exchange, delivery.routing_key) == ("q", "shop", "orders.new")
        assert delivery.redelivered is False
        assert consumer.source.unsettled == 1
        assert Keys(redis_url).unacked == 1
        assert delivery.ack() is True
        assert delivery.requeue() is False
        consumer.source.flush()
        assert consumer.source.unsettled == 0
        assert Keys(redis_url).unacked == 0
    publisher.close()
    assert delivery.source.closed
    assert Keys(redis_url).left() == {"_kombu.binding.shop", "_kombu.binding_permanent.shop"}


def test_unacked_has_the_message_untouched(redis_url: str) -> None:
    """As kombu would put it there; cjson would turn [] into {} and 1.0 into 1."""
    raw = '{"body": "W10=", "content-type": "application/json", "content-encoding": "utf-8", "headers": {"x": [], '
    raw += '"y": 1.0, "task": "t"}, "properties": {"body_encoding": "base64", "delivery_tag": "k\\u00e9"}}'
    keys = Keys(redis_url)
    keys.redis.lpush("q", raw)
    with consuming(redis_url) as consumer:
        consumer.take(1)
        [(tag, entry)] = keys.redis.hgetall(UNACKED).items()
        assert entry.decode() == f'[{raw}, "", "q"]'
        score = keys.redis.zscore(UNACKED_INDEX, tag)
        assert abs(score - time.time()) < 5


@pytest.mark.parametrize("pool", POOLS)
def test_a_settlement_never_waits_for_the_next_delivery(pool: str, redis_url: str) -> None:
    """Prefetch 1: the next message comes only after the ack. With any poll interval in between it would show."""
    printed = run_patched(
        pool,
        """
import sys, time, json, threading
from greenworker.broker.connection import ConnectionOptions
from greenworker.broker.open import SourceOptions, make_source
from greenworker.green.greens import library
from tests.support.redis_scenes import QUEUE, publish
url = sys.argv[1]
publish(url, range(300))
waiting, there, done = [], threading.Event(), []
def on_delivery(delivery):
    waiting.append(delivery)
    there.set()
def settle():
    while True:
        there.wait(); there.clear()
        while waiting:
            waiting.pop().ack(); done.append(1)
threading.Thread(target=settle, daemon=True).start()
source = make_source(url, ConnectionOptions(), on_delivery, library(POOL).make_waiter(), SourceOptions())
source.start([QUEUE], 1)
began = time.monotonic()
while len(done) < 300:
    assert time.monotonic() - began < 30, len(done)
    source.pump(5.0)
print(json.dumps(time.monotonic() - began))
source.close()
""",
        redis_url,
    )
    assert json.loads(printed) / 300 < 0.02


@pytest.mark.parametrize("pool", POOLS)
def test_an_idle_source_wakes_for_a_message_of_any_priority_and_asks_for_none(pool: str, redis_url: str) -> None:
    printed = run_patched(
        pool,
        """
import sys, time, json, threading
from greenworker.broker.connection import ConnectionOptions
from greenworker.broker.open import SourceOptions, make_source
from greenworker.green.greens import library
from tests.support.redis_scenes import QUEUE, open_publisher, outgoing
from tests.support.redis_server import client
url = sys.argv[1]
came = {}
def on_delivery(delivery):
    came[delivery.envelope.properties["priority"]] = time.monotonic()
    delivery.ack()
source = make_source(url, ConnectionOptions(), on_delivery, library(POOL).make_waiter(), SourceOptions())
source.start([QUEUE], 10)
stop = threading.Event()
def loop():
    while not stop.is_set():
        source.pump(5.0)
threading.Thread(target=loop, daemon=True).start()
publisher = open_publisher(url)
publisher.publish([outgoing(0, priority=9)])
redis = client(url)
waits = []
for priority in (0, 3, 6, 9):
    time.sleep(0.3)  # idle
    came.clear()
    publisher.publish([outgoing(1, priority=priority)])
    began = time.monotonic()
    while priority not in came:
        assert time.monotonic() - began < 5
        time.sleep(0.001)
    waits.append(came[priority] - began)
def scripts():
    return redis.info("commandstats")["cmdstat_evalsha"]["calls"]
before = scripts()
for _ in range(50):
    redis.set("q-of-somebody-else", 1)
time.sleep(3.0)
asked = scripts() - before
stop.set(); source.wake()
print(json.dumps([max(waits), asked]))
""",
        redis_url,
    )
    longest, asked = json.loads(printed)
    assert longest < 0.2, "it waited for a poll"
    assert asked <= 8, "an idle source asks for leases and messages once a second at most, two scripts"


def test_order_prefetch_and_what_is_given_back_at_the_end(redis_url: str) -> None:
    publish(redis_url, range(10))
    keys = Keys(redis_url)
    consumer = Consumer(redis_url, prefetch=4)
    consumer.pump_until(lambda: len(consumer.got) == 4)
    consumer.pump_for(0.3)
    assert consumer.numbers == [0, 1, 2, 3]
    consumer.got[1].ack()
    consumer.pump_until(lambda: len(consumer.got) == 5)
    assert (keys.waiting(), keys.unacked) == (5, 4)
    consumer.source.set_prefetch(6)
    consumer.pump_until(lambda: len(consumer.got) == 7)
    consumer.close()
    assert (keys.waiting(), keys.unacked) == (9, 0)
    with consuming(redis_url) as again:
        again.pump_until(lambda: len(again.got) == 9)
        assert again.numbers == [0, *range(2, 10)]
        assert [delivery.redelivered for delivery in again.got] == [True] * 6 + [False] * 3
    assert keys.left() == {"q"}


def test_a_requeued_message_comes_again_marked(redis_url: str) -> None:
    publish(redis_url, [1, 2], priority=6)
    with consuming(redis_url) as consumer:
        first, second = consumer.take(2)
        first.requeue()
        [again] = consumer.take(1)
        assert again.redelivered
        assert again.envelope == first.envelope
        assert again.tag != first.tag
        again.ack()
        second.ack()
        consumer.source.flush()
    assert Keys(redis_url).left() == set()


def test_priorities_go_in_kombus_order(redis_url: str) -> None:
    publisher = open_publisher(redis_url)
    publisher.publish([outgoing(priority, priority=priority) for priority in (9, 0, 3, 5, 6, 2)])
    publisher.close()
    with consuming(redis_url) as consumer:
        consumer.pump_until(lambda: len(consumer.got) == 6)
        assert consumer.numbers == [0, 2, 3, 5, 6, 9]


def test_queues_take_turns_by_weight(redis_url: str) -> None:
    specs = [QueueSpec("light"), QueueSpec("heavy", weight=3), QueueSpec("empty", weight=5)]
    for spec in specs[:2]:
        publish(redis_url, range(400), spec)
    with consuming(redis_url, specs, prefetch=50) as consumer:
        order: list[str] = []
        while len(order) < 240:
            [delivery] = consumer.take(1)
            order.append(delivery.queue)
            delivery.ack()
    for start in range(40, 240, 40):
        share = Counter(order[start : start + 40])["heavy"] / 40
        assert 0.65 < share < 0.85, f"3 of 4 should be heavy's, got {share} from {start} on"


def test_in_strict_order_the_first_queue_goes_first_and_never_waits_for_the_second(redis_url: str) -> None:
    first, second = QueueSpec("first"), QueueSpec("second")
    publish(redis_url, range(20), second)
    publish(redis_url, range(5), first)
    with consuming(redis_url, [first, second], prefetch=10, strict_order=True) as consumer:
        got = consumer.take(15)
        assert [delivery.queue for delivery in got] == ["first"] * 5 + ["second"] * 10
        publish(redis_url, [99], first)
        [delivery] = consumer.take(1)
        assert delivery.queue == "first", "the second queue's window is full of unsettled messages"


def test_queues_come_and_go(redis_url: str) -> None:
    with consuming(redis_url, [QUEUE]) as consumer:
        publish(redis_url, [1], QueueSpec("q2"))
        consumer.pump_for(0.2)
        assert consumer.got == []
        consumer.source.add_queue(QueueSpec("q2"))  # a prefix of q's, too: Redis refuses overlapping ones
        assert [delivery.queue for delivery in consumer.take(1)] == ["q2"]
        consumer.source.cancel_queue("q")
        publish(redis_url, [2])
        consumer.pump_for(0.2)
        assert consumer.got == []
        publish(redis_url, [3], QueueSpec("q2"))
        assert [delivery.queue for delivery in consumer.take(1)] == ["q2"]


def test_two_sources_share_a_queue_and_each_message_is_delivered_once(redis_url: str) -> None:
    with consuming(redis_url, prefetch=20) as one, consuming(redis_url, prefetch=20) as two:
        publish(redis_url, range(500))
        numbers: list[int] = []
        while len(numbers) < 500:
            for consumer in (one, two):
                consumer.source.pump(0.05)
                numbers += consumer.numbers
                consumer.ack_all()
        assert sorted(numbers) == list(range(500))


def test_a_dead_sources_messages_go_to_others_after_its_lease_in_order(redis_url: str) -> None:
    publish(redis_url, range(300))
    dead = Consumer(redis_url, prefetch=150, lease_timeout=1.0)
    dead.pump_until(lambda: len(dead.got) == 150)
    dead.got[7].ack()
    dead.source.flush()
    dead.die()
    died_at = time.monotonic()
    with consuming(redis_url, prefetch=1_000, lease_timeout=1.0) as heir:
        heir.pump_until(lambda: len(heir.got) == 299, timeout=5.0)
        assert time.monotonic() - died_at > 0.7, "the lease was still on"
        assert heir.numbers[:150] == list(range(150, 300))
        assert heir.numbers[150:] == [number for number in range(150) if number != 7]
        assert all(delivery.redelivered for delivery in heir.got[150:])
        heir.ack_all()
    assert Keys(redis_url).left() == set()


def test_a_lease_is_kept_while_messages_are_held_and_for_celerys_eyes_too(redis_url: str) -> None:
    publish(redis_url, [1, 2])
    keys = Keys(redis_url)
    with consuming(redis_url, lease_timeout=1.0) as holder, consuming(redis_url, lease_timeout=1.0) as other:
        holder.take(2)
        [(_, first)] = keys.redis.zrange(UNACKED_INDEX, 0, 0, withscores=True)
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:
            holder.source.pump(0.05)
            other.source.pump(0.05)
        assert other.got == [] and holder.got == []
        [(_, renewed)] = keys.redis.zrange(UNACKED_INDEX, 0, 0, withscores=True)
        assert renewed - first >= 2.0


def test_a_source_that_stood_still_too_long_learns_that_its_messages_are_anothers(redis_url: str) -> None:
    publish(redis_url, range(3))
    late = Consumer(redis_url, lease_timeout=1.0)
    held = late.take(3)
    with consuming(redis_url, lease_timeout=1.0) as heir:
        again = heir.take(3, timeout=5.0)  # late does not pump meanwhile
        held[0].ack()
        with pytest.raises(ConnectionLostError, match="lease_timeout"):
            late.pump_for(1.0)
        assert late.source.closed
        assert held[1].ack(), "what comes of it now is dropped"
        late.close()
        assert Keys(redis_url).unacked == 3
        for delivery in again:
            delivery.ack()
        heir.source.flush()
    assert Keys(redis_url).left() == set()


def celery_entry(keys: Keys, number: int, age: float, **properties: Any) -> str:
    """A message that a Celery worker took ``age`` seconds ago and that is in its hands."""
    publisher = open_publisher(keys_url(keys))
    publisher.publish([outgoing(number, QueueSpec("handed-over"), **properties)])
    publisher.close()
    raw = keys.redis.rpop(queue_key("handed-over", properties.get("priority", 0))).decode()
    tag = f"celery-{number}"
    keys.redis.hset(UNACKED, tag, f'[{raw}, "", "q"]')
    keys.redis.zadd(UNACKED_INDEX, {tag: time.time() - age})
    return tag


def keys_url(keys: Keys) -> str:
    arguments = keys.redis.connection_pool.connection_kwargs
    return f"redis://{arguments['host']}:{arguments['port']}/{arguments['db']}"


def test_celerys_messages_go_back_only_after_celerys_timeout(redis_url: str) -> None:
    keys = Keys(redis_url)
    fresh = celery_entry(keys, 1, age=50.0)
    celery_entry(keys, 2, age=3_700.0, priority=9)
    with consuming(redis_url, lease_timeout=1.0) as consumer:
        [delivery] = consumer.take(1)
        assert (delivery.envelope.headers["id"], delivery.redelivered) == ("2", True)
        delivery.ack()
        consumer.pump_for(1.5)
        assert consumer.got == []
    assert keys.redis.hkeys(UNACKED) == [fresh.encode()]
    with consuming(redis_url, lease_timeout=1.0, visibility_timeout=40.0) as consumer:
        assert [delivery.envelope.headers["id"] for delivery in consumer.take(1)] == ["1"]


@pytest.mark.parametrize("which", [DEAD, STALE])
def test_a_sweep_leaves_alone_whose_consumer_came_back_meanwhile(which: str, redis_url: str) -> None:
    """Between its look and its move: the lease was renewed, the message taken anew."""
    publish(redis_url, [1])
    with consuming(redis_url) as holder, consuming(redis_url) as other:
        [delivery] = holder.take(1)
        entry = Keys(redis_url).redis.hget(UNACKED, delivery.tag)
        assert other.source._restorer._restore(which, holder.source._session.id, {str(delivery.tag): entry}) == 0
        other.pump_for(0.2)
        assert other.got == []
        assert Keys(redis_url).unacked == 1


def test_parked_messages_come_when_they_are_due(redis_url: str) -> None:
    publisher = open_publisher(redis_url)
    keys = Keys(redis_url)
    with consuming(redis_url) as consumer:
        publisher.publish([outgoing(1, delay=0.8, priority=3), outgoing(2, delay=3_600.0)])
        parked_at = time.monotonic()
        assert keys.waiting() == 0
        [delivery] = consumer.take(1, timeout=5.0)
        assert 0.7 < time.monotonic() - parked_at < 3.0
        assert delivery.envelope == outgoing(1, priority=3).envelope
        delivery.ack()
    publisher.close()
    assert keys.left() == {"greenworker:parked"}


def test_what_is_no_message_is_delivered_as_a_malformed_one_and_can_be_given_back(redis_url: str) -> None:
    keys = Keys(redis_url)
    no_base64 = b'{"body": 5, "properties": {"body_encoding": "base64"}}'
    texts = [b"\xff\xfe", b"[1, 2", b"{}", b'"text"', b'{"properties": 3, "body": ""}', no_base64]
    for text in texts:
        keys.redis.lpush("q", text)
    consumer = Consumer(redis_url)
    consumer.pump_until(lambda: len(consumer.got) == len(texts))
    assert [delivery.envelope.body for delivery in consumer.got] == texts
    assert all(delivery.envelope.content_type is None for delivery in consumer.got)
    consumer.close()
    assert keys.unacked == 0
    assert keys.redis.lrange("q", 0, -1)[::-1][:2] == texts[:2]
    assert keys.waiting() == len(texts)


def test_a_key_that_is_no_list_stops_neither_the_others_nor_the_source(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(redis_url)
    keys.redis.set("q", "somebody's")
    publish(redis_url, [1], QueueSpec("other"))
    with consuming(redis_url, [QUEUE, QueueSpec("other")]) as consumer:
        assert [delivery.queue for delivery in consumer.take(1)] == ["other"]
        keys.redis.delete("q")
        publish(redis_url, [2])
        consumer.take(1)
    assert caplog.text.count("cannot be taken from: q: WRONGTYPE") == 1


def test_what_cannot_go_back_to_its_queue_stays_in_unacked(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Given back, swept: a key of another kind must not cost a message."""
    keys = Keys(redis_url)
    publish(redis_url, range(3))
    publish(redis_url, range(3, 5), QueueSpec("other"))
    consumer = Consumer(redis_url, [QUEUE, QueueSpec("other")])
    consumer.pump_until(lambda: len(consumer.got) == 5)
    keys.redis.set("q", "somebody's")
    consumer.close()
    assert keys.unacked == 3
    assert keys.waiting("other") == 2
    assert "q is no list" in caplog.text
    with consuming(redis_url, [QUEUE, QueueSpec("other")], lease_timeout=1.0) as heir:
        assert {delivery.queue for delivery in heir.take(2)} == {"other"}
        heir.pump_for(2.5)  # looks again and again
        assert keys.unacked == 5
        keys.redis.delete("q")
        heir.take(3)
        assert caplog.text.count("q is no list") == 2, "once for each source"


def test_a_parked_message_whose_queue_is_no_list_stays_parked(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    keys = Keys(redis_url)
    publisher = open_publisher(redis_url)
    publisher.publish([outgoing(1, delay=0.1), outgoing(2, QueueSpec("other"), delay=0.2)])
    publisher.close()
    keys.redis.set("q", "somebody's")
    with consuming(redis_url, [QueueSpec("other")]) as consumer:
        assert [delivery.queue for delivery in consumer.take(1)] == ["other"]
        assert keys.parked == 1
        keys.redis.delete("q")
        [member] = keys.redis.zrange(PARKED, 0, -1)
        keys.redis.zadd(PARKED, {member: 0})  # it is tried again in a minute
        consumer.pump_until(lambda: keys.waiting() == 1, timeout=8.0)
    assert caplog.text.count("q is no list") == 1


@pytest.mark.parametrize("key", [UNACKED, UNACKED_INDEX])
def test_what_cannot_stand_in_unacked_stays_on_its_queue(
    key: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(redis_url)
    publish(redis_url, range(5))
    before = keys.redis.lrange("q", 0, -1)
    keys.redis.set(key, "somebody's")
    with consuming(redis_url) as consumer:
        consumer.pump_for(2.5)
        assert keys.redis.lrange("q", 0, -1) == before
        assert keys.left() == {"q", key, SESSIONS}
        keys.redis.delete(key)
        consumer.take(5)
        assert consumer.got == []
    assert caplog.text.count("Redis refuses what a consumer needs, trying again every 1 s: WRONGTYPE") == 1
    assert caplog.text.count("Redis does as it is told again") == 1


def test_a_lost_script_is_sent_again(redis_url: str) -> None:
    with consuming(redis_url) as consumer:
        publish(redis_url, [1])
        [delivery] = consumer.take(1)
        Keys(redis_url).redis.script_flush()
        delivery.ack()
        publish(redis_url, [2])
        consumer.take(1)
        assert Keys(redis_url).unacked == 1


def test_settlements_from_many_threads(redis_url: str) -> None:
    publish(redis_url, range(2_000))
    with consuming(redis_url, prefetch=2_000) as consumer:
        consumer.pump_until(lambda: len(consumer.got) == 2_000)
        won: list[bool] = []

        def settle() -> None:
            for delivery in consumer.got:
                won.append(delivery.settle(Settlement.ACK))

        threads = [threading.Thread(target=settle) for _ in range(4)]
        for thread in threads:
            thread.start()
        consumer.pump_until(lambda: consumer.source.unsettled == 0)
        for thread in threads:
            thread.join(10.0)
    assert Keys(redis_url).left() == set()


def test_a_fanout_queue_is_refused(redis_url: str) -> None:
    with pytest.raises(BrokerError, match="queue f: tasks cannot be consumed from a fanout exchange"):
        Consumer(redis_url, [QueueSpec("f", exchange="all", exchange_type="fanout")])


def test_a_session_that_redis_has_forgotten_is_a_lost_connection(redis_url: str) -> None:
    consumer = Consumer(redis_url)
    consumer.pump_for(0.1)
    Keys(redis_url).redis.delete(SESSIONS)
    publish(redis_url, [1])
    with pytest.raises(ConnectionLostError):
        consumer.pump_for(3.0)
    consumer.close()
    assert Keys(redis_url).waiting() == 1, "nothing is taken under a session that is over"


def test_nobody_leaves_open_files_behind(redis_url: str) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    Consumer(redis_url).close()
    before = count()
    for _ in range(5):
        Consumer(redis_url).close()
    wait_until(lambda: count() <= before)
