"""AmqpPublisher on a real RabbitMQ: confirms, returns, cuts, parking, many callers at once, limits thrown into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.greenproc import GREEN_POOLS, POOLS, run_patched
from tests.support.proxy import Proxy
from tests.support.rabbitmq import RabbitMQ

each_pool = pytest.mark.parametrize("pool", POOLS)
in_full_each_pool = pytest.mark.parametrize(
    "pool", [pool if pool == "gevent" else pytest.param(pool, marks=pytest.mark.full) for pool in POOLS]
)

PRELUDE = """
import sys, time, json, threading
from greenworker.broker.delivery import QueueSpec
from greenworker.broker.publisher import Replacement
from greenworker.errors import PublishError
from tests.support.amqp_scenes import *
URL = sys.argv[1]
got = []
queue = QueueSpec("q")

def outgoing(*numbers, **fields):
    return [Outgoing(envelope(number), "q", queue=queue, **fields) for number in numbers]

def failure(publisher, messages, **kwargs):
    try:
        publisher.publish(messages, **kwargs)
    except PublishError as exc:
        return str(exc)
    raise AssertionError("published")

def fetch(url, count, prefetch=10_000):
    source = open_source(POOL, url, got.append)
    source.start([queue], prefetch)
    pump_until(source, lambda: len(got) >= count)
    pump_quiet(source, 0.2)
    for delivery in got:
        delivery.ack()
    source.close()
    return sorted(map(number_of, got))
"""


def run(pool: str, source: str, *argv: str | Path) -> str:
    return run_patched(pool, PRELUDE + source, *map(str, argv))


@each_pool
def test_what_no_queue_takes_is_an_error_and_the_rest_is_published(pool: str, rabbitmq_url: str) -> None:
    run(
        pool,
        """
import dataclasses
publisher = open_publisher(URL)
lost = Outgoing(envelope(9), "nowhere")
error = failure(publisher, [*outgoing(1), lost, *outgoing(2)])
assert "no queue takes" in error and "'nowhere'" in error, error
assert "no exchange 'x'" in failure(publisher, [Outgoing(envelope(9), "q", exchange="x")])
missing = dataclasses.replace(queue, name="other", declare=False)
began = time.monotonic()
assert "queue other is not on the broker" in failure(publisher, [Outgoing(envelope(9), "other", queue=missing)])
assert time.monotonic() - began < 2, "tried again what trying again does not mend"
publisher.publish(outgoing(3))
assert fetch(URL, 3) == [1, 2, 3]
publisher.close()
assert "closed" in failure(publisher, outgoing(4))
""",
        rabbitmq_url,
    )


@each_pool
def test_a_queue_that_was_deleted_is_declared_again(pool: str, rabbitmq_url: str) -> None:
    run(
        pool,
        """
import kombu
publisher = open_publisher(URL, connections=1)
publisher.publish(outgoing(1))
with kombu.Connection(URL) as other:
    other.default_channel.queue_delete("q")
publisher.publish(outgoing(2, 3))
assert fetch(URL, 2) == [2, 3]
publisher.close()
""",
        rabbitmq_url,
    )


@each_pool
def test_a_full_queue_is_an_error(pool: str, rabbitmq_url: str) -> None:
    run(
        pool,
        """
queue = QueueSpec("q", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
publisher = open_publisher(URL)
publisher.publish(outgoing(1))
assert "refused" in failure(publisher, outgoing(2, 3))
publisher.close()
""",
        rabbitmq_url,
    )


@in_full_each_pool
def test_after_a_cut_it_publishes_over_a_new_connection(pool: str, rabbitmq: RabbitMQ) -> None:
    """Cut while idle, and cut again and again while publishing: nothing is lost."""
    vhost = rabbitmq.new_vhost().rpartition("/")[2]
    with Proxy(rabbitmq.port) as proxy:
        import threading

        stop = threading.Event()

        def cut_now_and_then() -> None:
            while not stop.wait(0.15):
                proxy.cut()

        thread = threading.Thread(target=cut_now_and_then)
        thread.start()
        try:
            run(
                pool,
                """
publisher = open_publisher(URL)
number = 0
deadline = time.monotonic() + 3
while time.monotonic() < deadline:
    publisher.publish(outgoing(*range(number, number + 20)), timeout=20)
    number += 20
assert number >= 20
assert set(fetch(sys.argv[2], number)) == set(range(number))
publisher.close()
""",
                rabbitmq.url_of(vhost, proxy.port),
                rabbitmq.url_of(vhost),
            )
        finally:
            stop.set()
            thread.join()
        assert proxy.accepted > 2, "it was never cut"


@each_pool
def test_a_frozen_broker_ends_a_publish_in_time(pool: str, rabbitmq: RabbitMQ) -> None:
    vhost = rabbitmq.new_vhost().rpartition("/")[2]
    with Proxy(rabbitmq.port) as proxy:
        proxy.freeze()
        run(
            pool,
            """
publisher = open_publisher(URL)
began = time.monotonic()
failure(publisher, outgoing(1), timeout=1.0)
assert 0.9 < time.monotonic() - began < 3, time.monotonic() - began
""",
            rabbitmq.url_of(vhost, proxy.port),
        )


@each_pool
def test_an_idle_connection_lives_on_and_an_old_one_is_not_trusted(pool: str, rabbitmq: RabbitMQ) -> None:
    """The options ask for heartbeats, which nobody would send between two publishes."""
    vhost = rabbitmq.new_vhost().rpartition("/")[2]
    with Proxy(rabbitmq.port) as proxy:
        run(
            pool,
            """
import greenworker.broker.links as module
publisher = open_publisher(URL, connections=1, heartbeat=1.0)
publisher.publish(outgoing(1))
link = publisher._links._idle.queue[0][0]
time.sleep(3.0)  # the broker gives up after two heartbeats of silence
publisher.publish(outgoing(2))
assert publisher._links._idle.queue[0][0] is link
module.IDLE_LIMIT = 0.0
publisher.publish(outgoing(3))
assert publisher._links._idle.queue[0][0] is not link
assert fetch(sys.argv[2], 3) == [1, 2, 3]
publisher.close()
""",
            rabbitmq.url_of(vhost, proxy.port),
            rabbitmq.url_of(vhost),
        )
        assert proxy.accepted == 2


@each_pool
def test_many_callers_share_few_connections(pool: str, rabbitmq: RabbitMQ) -> None:
    vhost = rabbitmq.new_vhost().rpartition("/")[2]
    with Proxy(rabbitmq.port) as proxy:
        run(
            pool,
            """
publisher = open_publisher(URL, connections=3)
errors = []
def caller(first):
    try:
        for number in range(first, first + 10):
            publisher.publish(outgoing(number))
    except BaseException as exc:
        errors.append(exc)
callers = [in_background(lambda first=first: caller(first)) for first in range(0, 1000, 10)]
for thread in callers:
    thread.join(30)
assert not errors, errors
assert fetch(sys.argv[2], 1000) == list(range(1000))
publisher.close()
""",
            rabbitmq.url_of(vhost, proxy.port),
            rabbitmq.url_of(vhost),
        )
        assert proxy.accepted == 3


@pytest.mark.parametrize("pool", GREEN_POOLS)
def test_a_limit_thrown_into_a_publish_spoils_no_other(pool: str, rabbitmq_url: str) -> None:
    """Greenlets are ended at random points of a publish with a large body; others go on over sound connections."""
    run(
        pool,
        """
import dataclasses, random
random.seed(1)
if POOL == "gevent":
    import gevent
    spawn, kill = gevent.spawn, lambda greenlet: greenlet.kill(block=False)
else:
    import eventlet
    spawn, kill = eventlet.spawn, lambda greenlet: greenlet.kill()
publisher = open_publisher(URL, connections=2)
publisher.publish(outgoing(0))
large = dataclasses.replace(envelope(1), body=b"x" * 400_000)
def victim():
    publisher.publish([Outgoing(large, "q", queue=queue)])
for number in range(60):
    greenlet = spawn(victim)
    time.sleep(random.random() * 0.01)
    kill(greenlet)
    publisher.publish(outgoing(1000 + number), timeout=5)
numbers = fetch(URL, 61)
assert set(range(1000, 1060)) <= set(numbers)
assert all(len(delivery.envelope.body) in (400_000, len(envelope(number_of(delivery)).body)) for delivery in got)
assert publisher._links._idle.qsize() == 2, "a place was lost"
publisher.close()
""",
        rabbitmq_url,
    )


@each_pool
def test_a_parked_message_comes_when_it_is_due(pool: str, rabbitmq_url: str) -> None:
    run(
        pool,
        """
publisher = open_publisher(URL)
other = QueueSpec("other")
publisher.publish([Outgoing(envelope(0), "other", queue=other)])
publisher.publish(outgoing(0, delay=1.0))  # the topology takes its time
source = open_source(POOL, URL, got.append)
source.start([queue, other], 10)
pump_until(source, lambda: len(got) == 2)
began = time.monotonic()
publisher.publish([
    Outgoing(envelope(1, priority=7, expiration=None), "q", queue=queue, delay=2.9),
    Outgoing(envelope(2), "q", queue=queue, delay=0.9),
    Outgoing(envelope(3), "other", delay=3.2),
])
arrived = {}
def turn():
    seen = len(got)
    source.pump(0.2)
    for delivery in got[seen:]:
        arrived[number_of(delivery)] = (time.monotonic() - began, delivery)
wait_until(lambda: len(arrived) == 3, turn)
assert arrived[2][0] < 1.0, arrived
assert 1.9 <= arrived[1][0] < 3.0, arrived
assert 2.9 <= arrived[3][0] < 4.0, arrived
assert arrived[1][1].queue == "q" and arrived[3][1].queue == "other"
delivered = arrived[1][1].envelope
assert delivered.properties["priority"] == 7 and delivered.properties["correlation_id"] == "1"
assert delivered.body == envelope(1).body
assert "cannot be parked" in failure(publisher, [Outgoing(envelope(4), "x", exchange="amq.direct", delay=5)])
source.close()
publisher.close()
""",
        rabbitmq_url,
    )


def test_parking_shares_a_topology_of_the_other_kind(rabbitmq_url: str) -> None:
    """Celery's is of quorum queues by default, and can be set to classic ones."""
    run(
        "threads",
        """
import kombu
from kombu.transport.native_delayed_delivery import declare_native_delayed_delivery_exchanges_and_queues
with kombu.Connection(URL) as other:
    declare_native_delayed_delivery_exchanges_and_queues(other, "classic")
publisher = open_publisher(URL)
publisher.publish(outgoing(1, delay=1.0))
link = publisher._links._idle.queue[-1][0]
assert len(link._connection.channels) == 2, link._connection.channels  # the connection's own, and the publishing one
assert fetch(URL, 1) == [1]
publisher.close()
""",
        rabbitmq_url,
    )


@each_pool
def test_a_replaced_delivery_is_acked_after_the_confirm_alone(pool: str, rabbitmq: RabbitMQ) -> None:
    vhost = rabbitmq.new_vhost().rpartition("/")[2]
    with Proxy(rabbitmq.port) as proxy:
        import threading

        # resumed by the clock: the process cannot reach the proxy, and what it waits for is the confirm
        proxy.freeze()
        threading.Timer(2.0, proxy.resume).start()
        run(
            pool,
            """
direct = sys.argv[2]
publish(direct, queue, [1, 2])
source = open_source(POOL, direct, got.append)
source.start([queue], 2)
pump_until(source, lambda: len(got) == 2)
publisher = open_publisher(URL)
refused = Replacement(got[0], Outgoing(envelope(9), "nowhere"))
moved = Replacement(got[1], Outgoing(envelope(3), "moved", queue=QueueSpec("moved")))
done = []
def replace():
    try:
        publisher.replace([refused])
    except PublishError:
        done.append("refused")
    publisher.replace([moved])
    done.append("moved")
thread = in_background(replace)
while not done:
    source.pump(0.05)
    assert got[0].settled is None and got[1].settled is None or done
thread.join(20)
assert done == ["refused", "moved"], done
assert got[0].settled is None, "acked although nothing took its place"
assert got[1].settled is not None
source.flush()
assert source.unsettled == 1
source.close()
""",
            rabbitmq.url_of(vhost, proxy.port),
            rabbitmq.url_of(vhost),
        )
