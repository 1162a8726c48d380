"""AmqpSource on a real RabbitMQ, under each pool: deliveries, settlements, prefetch, queues that come and go."""

from __future__ import annotations

import json

import pytest

from tests.support.greenproc import POOLS, run_patched
from tests.support.rabbitmq import RabbitMQ

each_pool = pytest.mark.parametrize("pool", POOLS)
in_full_each_pool = pytest.mark.parametrize(
    "pool", [pool if pool == "gevent" else pytest.param(pool, marks=pytest.mark.full) for pool in POOLS]
)

PRELUDE = """
import sys, time, json, threading
from greenworker.broker.connection import ConnectionLostError
from greenworker.broker.delivery import Delivery, QueueSpec
from greenworker.errors import BrokerError
from tests.support.amqp_scenes import *
URL = sys.argv[1]
got = []
"""


def run(pool: str, source: str, *argv: str) -> str:
    return run_patched(pool, PRELUDE + source, *argv)


@each_pool
def test_a_message_arrives_as_it_was_sent_and_its_ack_counts(pool: str, rabbitmq_url: str) -> None:
    run(
        pool,
        """
queue = QueueSpec("q", exchange="shop", exchange_type="topic", routing_key="orders.#")
publisher = open_publisher(URL)
publisher.publish([Outgoing(envelope(1, priority=5, reply_to="me"), "orders.new", exchange="shop", queue=queue)])
source = open_source(POOL, URL, got.append)
source.start([queue], 10)
pump_until(source, lambda: got)
[delivery] = got
sent = envelope(1, priority=5, reply_to="me")
assert delivery.envelope == sent, (delivery.envelope, sent)
assert (delivery.queue, delivery.exchange, delivery.routing_key) == ("q", "shop", "orders.new")
assert delivery.redelivered is False and source.unsettled == 1
assert delivery.ack() is True and delivery.requeue() is False
source.flush()
assert source.unsettled == 0
source.close()
assert delivery.source.closed

again = open_source(POOL, URL, got.append)
again.start([queue], 10)
pump_quiet(again, 0.3)
assert len(got) == 1, "an acked message came again"
again.close()
""",
        rabbitmq_url,
    )


@each_pool
def test_a_settlement_never_waits_for_the_next_delivery(pool: str, rabbitmq_url: str) -> None:
    """Prefetch 1: the next message comes only after the ack. With any poll interval in between it would show."""
    printed = run(
        pool,
        """
queue = QueueSpec("q")
publish(URL, queue, range(600))
def on_delivery(delivery):
    got.append(delivery)
    waiting.append(delivery)
    there.set()
waiting, there = [], threading.Event()
def settle():
    while True:
        there.wait(); there.clear()
        while waiting:
            waiting.pop().ack()
in_background(settle)
source = open_source(POOL, URL, on_delivery)
source.start([queue], 1)
pump_until(source, lambda: len(got) >= 100)
began = time.monotonic()
wait_until(lambda: len(got) >= 600, lambda: source.pump(5.0))
print(json.dumps(time.monotonic() - began))
source.close()
""",
        rabbitmq_url,
    )
    seconds_a_message = json.loads(printed) / 500
    assert seconds_a_message < 0.02


@each_pool
def test_out_of_order_settlements_settle_each_message_once(pool: str, rabbitmq_url: str) -> None:
    run(
        pool,
        """
import random
random.seed(4)
queue = QueueSpec("q")
publish(URL, queue, range(1000))
acked, held = [], []
def settle_some():
    random.shuffle(held)
    while len(held) > 20:
        delivery = held.pop()
        if random.random() < 0.2:
            delivery.requeue()
        else:
            acked.append(number_of(delivery)); delivery.ack()
source = open_source(POOL, URL, held.append)
source.start([queue], 100)
def turn():
    source.pump(0.2)
    settle_some()
wait_until(lambda: len(acked) == 980, turn)
for delivery in held:
    acked.append(number_of(delivery)); delivery.ack()
source.flush()
pump_quiet(source, 0.2)
assert sorted(acked) == list(range(1000)), "lost or run twice"
assert source.unsettled == 0
source.close()
""",
        rabbitmq_url,
    )


@each_pool
@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_close_gives_back_what_is_unsettled_and_keeps_what_is_acked(pool: str, kind: str, rabbitmq_url: str) -> None:
    run(
        pool,
        """
queue = QueueSpec("q", type=sys.argv[2])
publish(URL, queue, range(500))
source = open_source(POOL, URL, got.append)
source.start([queue], 500)
pump_until(source, lambda: len(got) == 500)
for delivery in got[::2]:
    delivery.ack()
source.close()
kept = {number_of(delivery) for delivery in got[1::2]}
for delivery in got[1::2]:
    delivery.ack()  # too late: dropped, not an error
got.clear()
again = open_source(POOL, URL, got.append)
again.start([queue], 1000)
pump_until(again, lambda: len(got) >= 250)
pump_quiet(again, 0.3)
assert {number_of(delivery) for delivery in got} == kept, "an ack was lost, or a message"
assert len(got) == 250 and all(delivery.redelivered for delivery in got)
again.close()
""",
        rabbitmq_url,
        kind,
    )


@each_pool
def test_after_stop_nothing_is_handed_out_any_more(pool: str, rabbitmq_url: str) -> None:
    run(
        pool,
        """
queue = QueueSpec("q")
publish(URL, queue, range(2000))
source = open_source(POOL, URL, got.append)
source.start([queue], 1000)
pump_until(source, lambda: got)
source.stop()
handed_out = len(got)
for delivery in got:
    delivery.ack()
pump_quiet(source, 0.3)
assert len(got) == handed_out
assert source.unsettled == 0, "what came after the stop was not given back"
source.close()
got.clear()
again = open_source(POOL, URL, got.append)
again.start([queue], 3000)
pump_until(again, lambda: len(got) == 2000 - handed_out)
pump_quiet(again, 0.2)
assert len({number_of(delivery) for delivery in got}) == len(got) == 2000 - handed_out
again.close()
""",
        rabbitmq_url,
    )


@each_pool
def test_a_shared_limit_holds_over_all_classic_queues(pool: str, rabbitmq_url: str) -> None:
    run(
        pool,
        """
queues = [QueueSpec("a"), QueueSpec("b")]
for queue in queues:
    publish(URL, queue, range(50))
source = open_source(POOL, URL, got.append)
source.start(queues, 10)
pump_until(source, lambda: len(got) == 10)
pump_quiet(source, 0.2)
assert source.unsettled == len(got) == 10
source.set_prefetch(25)
pump_until(source, lambda: len(got) == 25)
source.set_prefetch(5)
pump_quiet(source, 0.2)
for delivery in got[:20]:
    delivery.ack()
pump_quiet(source, 0.2)
assert source.unsettled == 5 and len(got) == 25, (source.unsettled, len(got))
source.set_prefetch(0)  # would be unlimited: 1 it is
pump_quiet(source, 0.1)
for delivery in got:
    delivery.ack()
pump_until(source, lambda: len(got) == 26)
pump_quiet(source, 0.2)
assert source.unsettled == 1, source.unsettled
source.close()
""",
        rabbitmq_url,
    )


@in_full_each_pool
def test_windows_of_quorum_queues_change_under_load_without_gap_or_duplicate(pool: str, rabbitmq_url: str) -> None:
    run(
        pool,
        """
queues = [QueueSpec("a", type="quorum"), QueueSpec("b", type="quorum")]
for number, queue in enumerate(queues):
    publish(URL, queue, range(number * 10_000, number * 10_000 + 400))
seen, most = [], 0
def on_delivery(delivery):
    seen.append(number_of(delivery)); got.append(delivery)
source = open_source(POOL, URL, on_delivery)
source.start(queues, 6)
changes = 0
def turn():
    global most, changes
    source.pump(0.2)
    most = max(most, source.unsettled)
    if changes < 50:
        changes += 1
        source.set_prefetch(6 + changes % 2 * 6)
    while got:
        got.pop().ack()
wait_until(lambda: len(seen) >= 800, turn)
pump_quiet(source, 0.3)
assert changes == 50, changes
assert sorted(seen) == sorted([*range(400), *range(10_000, 10_400)]), "lost, or delivered twice"
assert most <= 12, most
source.close()
""",
        rabbitmq_url,
    )


def test_a_large_prefetch_takes_several_channels(rabbitmq_url: str) -> None:
    run(
        "threads",
        """
queue = QueueSpec("q")
source = open_source(POOL, URL, got.append)
source.start([queue], 4_000)
publish(URL, queue, range(300))
pump_until(source, lambda: len(got) == 300)
channels = {delivery.source for delivery in got}
assert len(channels) == 2, channels
source.set_prefetch(100)  # the second channel consumes no more, what it delivered stays
pump_quiet(source, 0.1)
for delivery in got:
    delivery.ack()
source.flush()
assert source.unsettled == 0
publish(URL, queue, range(300, 420))
pump_until(source, lambda: len(got) == 400)
pump_quiet(source, 0.2)
assert len(got) == 400 and len({delivery.source for delivery in got[300:]}) == 1
source.close()
""",
        rabbitmq_url,
    )


@each_pool
def test_weights_share_out_the_slots(pool: str, rabbitmq_url: str) -> None:
    run(
        pool,
        """
queues = [QueueSpec("a", weight=3), QueueSpec("b", weight=1)]
for queue in queues:
    publish(URL, queue, range(1000))
started = []
def on_delivery(delivery):
    started.append(delivery.queue); got.append(delivery)
source = open_source(POOL, URL, on_delivery)
source.start(queues, 40)
most = 0
def turn():
    global most
    source.pump(0.2)
    most = max(most, source.unsettled)
    time.sleep(0.002)  # the work: a worker that is faster than the broker has no slots to share out
    for delivery in got[:8]:
        delivery.ack()
    del got[:8]
wait_until(lambda: len(started) >= 1000, turn)
first = started[:1000].count("a")
assert abs(first - 750) <= 40, first
assert most <= 40, most
source.close()
""",
        rabbitmq_url,
    )


@each_pool
def test_in_strict_order_the_first_queue_goes_first(pool: str, rabbitmq_url: str) -> None:
    """Once there is something in the first queue, nothing of the others is handed out before it is empty."""
    run(
        pool,
        """
queues = [QueueSpec("first"), QueueSpec("second"), QueueSpec("third")]
publish(URL, queues[2], range(20))
publish(URL, queues[1], range(20))
source = open_source(POOL, URL, got.append, strict_order=True)
source.start(queues, 5)
pump_until(source, lambda: len(got) == 5)
publish(URL, queues[0], range(20))
pump_quiet(source, 0.3)
assert source.unsettled == 5 and len(got) == 5
for at in range(60):
    got[at].ack()
    pump_quiet(source, 0.05)  # work that takes longer than the broker takes to send what replaces it
order = [delivery.queue for delivery in got[5:]]
assert order == sorted(order) and len(order) == 55, order  # "first", "second", "third"
source.close()
""",
        rabbitmq_url,
    )


@each_pool
def test_queues_are_added_and_cancelled_while_consuming(pool: str, rabbitmq_url: str) -> None:
    """A quorum queue beside a classic one: the shared limit gives way to windows, and never to none."""
    run(
        pool,
        """
classic, quorum = QueueSpec("classic"), QueueSpec("quorum", type="quorum")
publish(URL, classic, range(2000))
publish(URL, quorum, range(5000, 5100))
source = open_source(POOL, URL, got.append)
source.start([classic], 10)
pump_until(source, lambda: len(got) == 10)
source.add_queue(quorum)
pump_quiet(source, 0.3)
assert source.unsettled == 10, source.unsettled
source.cancel_queue("classic")
handed_out = len(got)
def turn():
    source.pump(0.2)
    for delivery in got:
        delivery.ack()
wait_until(lambda: sum(delivery.queue == "quorum" for delivery in got) == 100, turn)
late = [delivery for delivery in got[handed_out:] if delivery.queue == "classic"]
assert not late, len(late)
source.close()
""",
        rabbitmq_url,
    )


@each_pool
def test_a_deleted_queue_is_declared_again_and_consumed(pool: str, rabbitmq_url: str) -> None:
    run(
        pool,
        """
import kombu
queues = [QueueSpec("q", max_priority=5), QueueSpec("other")]
source = open_source(POOL, URL, got.append)
source.start(queues, 10)
with kombu.Connection(URL) as other:
    other.default_channel.queue_delete("q")
pump_quiet(source, 0.5)
publish(URL, queues[0], [1])
publish(URL, queues[1], [2])
pump_until(source, lambda: len(got) == 2)
source.close()
""",
        rabbitmq_url,
    )


def test_a_deleted_queue_that_is_not_ours_is_waited_for(rabbitmq_url: str) -> None:
    run(
        "threads",
        """
import kombu
import greenworker.broker.amqp.source as module
module.REDECLARE_INTERVAL = 0.2
ours, theirs = QueueSpec("ours"), QueueSpec("theirs")
not_ours = QueueSpec("theirs", declare=False)
publish(URL, theirs, [])
source = open_source(POOL, URL, got.append)
source.start([ours, not_ours], 10)
with kombu.Connection(URL) as other:
    other.default_channel.queue_delete("theirs")
pump_quiet(source, 0.5)
publish(URL, theirs, [1])
pump_until(source, lambda: len(got) == 1)
source.close()
""",
        rabbitmq_url,
    )


def test_a_queue_with_other_arguments_is_used_as_it_is(rabbitmq_url: str) -> None:
    printed = run(
        "threads",
        """
import logging
logging.basicConfig(stream=sys.stdout, level=logging.WARNING)
publish(URL, QueueSpec("q", type="quorum"), range(30))
source = open_source(POOL, URL, got.append)
source.start([QueueSpec("q", max_priority=3), QueueSpec("other")], 10)  # as a shared limit this would be a 540
pump_until(source, lambda: len(got) == 10)
pump_quiet(source, 0.2)
assert source.unsettled == len(got) == 10
source.close()
""",
        rabbitmq_url,
    )
    assert "Queue q exists with other arguments than [queue q] says; used as it is" in printed
    assert "inequivalent arg" in printed


def test_a_missing_queue_that_is_not_ours_is_an_error(rabbitmq_url: str) -> None:
    run(
        "threads",
        """
source = open_source(POOL, URL, got.append)
try:
    source.start([QueueSpec("nowhere", declare=False)], 10)
except ConnectionLostError:
    raise
except BrokerError as exc:
    assert "queue nowhere is not on the broker and [queue nowhere] declare is off" in str(exc), exc
else:
    raise AssertionError("no error")
source.close()
""",
        rabbitmq_url,
    )


@each_pool
def test_a_body_of_100_megabytes(pool: str, rabbitmq_url: str) -> None:
    run(
        pool,
        """
import dataclasses, hashlib
body = bytes(range(256)) * (100 * 4096)
assert len(body) == 100 * 2**20
queue = QueueSpec("q")
publisher = open_publisher(URL, timeout=40.0)
publisher.publish([Outgoing(dataclasses.replace(envelope(1), body=body), "q", queue=queue)])
publisher.publish([Outgoing(envelope(2), "q", queue=queue)])
source = open_source(POOL, URL, got.append)
source.start([queue], 10)
pump_until(source, lambda: len(got) == 2)
assert hashlib.sha256(got[0].envelope.body).digest() == hashlib.sha256(body).digest()
for delivery in got:
    delivery.ack()
source.flush()
source.close()
""",
        rabbitmq_url,
    )


def test_properties_that_cannot_be_read_do_not_stop_the_others(rabbitmq_url: str) -> None:
    """Written past py-amqp: RabbitMQ passes the bytes on as they are."""
    run(
        "threads",
        """
import amqp, kombu
queue = QueueSpec("q")
publish(URL, queue, [])
class Broken(amqp.Message):
    def _serialize_properties(self):
        return bytes.fromhex("8000") + b"\\x02\\xff\\xfe"  # a content type that is no UTF-8
with kombu.Connection(URL) as other:
    other.default_channel.basic_publish(Broken("x"), "", "q")
publish(URL, queue, [2])
source = open_source(POOL, URL, got.append)
source.start([queue], 10)
pump_until(source, lambda: len(got) == 2)
assert got[0].envelope.headers == {} and got[0].envelope.content_type is None
assert number_of(got[1]) == 2
source.close()
""",
        rabbitmq_url,
    )


def test_a_task_longer_than_the_consumer_timeout_is_a_lost_connection_that_says_so(
    rabbitmq: RabbitMQ, rabbitmq_url: str
) -> None:
    rabbitmq.evaluate("application:set_env(rabbit, consumer_timeout, 1000).")
    rabbitmq.evaluate("application:set_env(rabbit, channel_tick_interval, 500).")
    try:
        run(
            "threads",
            """
queue = QueueSpec("q")
publish(URL, queue, [1])
source = open_source(POOL, URL, got.append)
source.start([queue], 10)
try:
    pump_quiet(source, 20)
except ConnectionLostError as exc:
    assert "consumer_timeout" in str(exc), exc
else:
    raise AssertionError("RabbitMQ did not mind")
assert source.closed and got[0].source.closed
source.close()
""",
            rabbitmq_url,
        )
    finally:
        rabbitmq.evaluate("application:set_env(rabbit, consumer_timeout, 1800000).")
        rabbitmq.evaluate("application:set_env(rabbit, channel_tick_interval, 60000).")


def test_under_a_hub_what_was_read_along_with_a_reply_is_handed_out(rabbitmq_url: str) -> None:
    """The socket has nothing more to tell, for the broker waits for an ack: only the buffer knows of the message."""
    run(
        "threads",
        """
import select
from kombu.asynchronous import Hub
queue = QueueSpec("q")
publish(URL, queue, [1, 2])
source = open_source(POOL, URL, got.append)
source.start([queue], 1)
connection = source.connection
while not connection.buffered:  # what a reply's wait does when both come in one chunk
    assert select.select([connection.sock], [], [], 10)[0], "the broker delivered nothing"
    connection._receive()
hub = Hub()
woken = []
source.register(hub, lambda: woken.append(True))
source.turn()
assert [number_of(delivery) for delivery in got] == [1]

turns = hub.create_loop()
got[0].ack()
assert woken, "a settlement has to end the hub's wait"
deadline = time.monotonic() + 10
while len(got) < 2:
    assert time.monotonic() < deadline
    source.turn()
    next(turns)
source.unregister(hub)
source.close()
""",
        rabbitmq_url,
    )
