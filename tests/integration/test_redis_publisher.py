"""RedisPublisher on a real Redis: replies, replacements, lost connections, a Redis that takes nothing."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenworker.broker.delivery import QueueSpec, Settlement
from greenworker.broker.publisher import Outgoing, Replacement
from greenworker.broker.redis.publisher import RedisPublisher
from greenworker.errors import EncodeError, PublishError
from tests.support.amqp_scenes import envelope, number_of
from tests.support.proxy import Proxy
from tests.support.redis_scenes import QUEUE, Consumer, Keys, consuming, open_publisher, outgoing, publish
from tests.support.redis_server import RedisServer
from tests.support.worker import wait_until


@pytest.fixture
def publisher(redis_url: str) -> Iterator[RedisPublisher]:
    publisher = open_publisher(redis_url)
    yield publisher
    publisher.close()


def proxied(url: str) -> tuple[Proxy, str]:
    """A proxy before the server of ``url``, and the URL through it."""
    host, _, database = url.rpartition("/")
    proxy = Proxy(int(host.rpartition(":")[2]))
    return proxy, f"redis://127.0.0.1:{proxy.port}/{database}"


def test_what_is_published_is_on_its_queue_when_publish_returns(redis_url: str, publisher: RedisPublisher) -> None:
    publisher.publish([outgoing(number) for number in range(1_234)])
    assert Keys(redis_url).waiting() == 1_234
    with consuming(redis_url, prefetch=2_000) as consumer:
        assert [number_of(delivery) for delivery in consumer.take(1_234)] == list(range(1_234))
        consumer.ack_all()


def test_the_notes_on_batches_do_not_gather(redis_url: str, publisher: RedisPublisher) -> None:
    for number in range(50):
        publisher.publish([outgoing(number)])
    keys = Keys(redis_url)
    [note] = keys.redis.keys("greenworker:published:*")
    assert 0 < keys.redis.ttl(note) <= 80


def test_exchanges_route_as_kombu_routes(redis_url: str, publisher: RedisPublisher) -> None:
    direct = QueueSpec("a", exchange="shop", routing_key="new")
    topics = [
        QueueSpec("t1", exchange="topics", exchange_type="topic", routing_key="orders.*"),
        QueueSpec("t2", exchange="topics", exchange_type="topic", routing_key="#.new"),
    ]
    publisher.publish([outgoing(1, direct)])
    for queue in topics:
        publisher.publish([Outgoing(envelope(2), "nobody", exchange="", queue=queue), outgoing(3, direct)])
    keys = Keys(redis_url)
    assert keys.waiting("a") == 3
    with consuming(redis_url, topics):
        publisher.publish([Outgoing(envelope(4), "orders.new", exchange="topics")])
        publisher.publish([Outgoing(envelope(5), "orders.old", exchange="topics")])
    assert (keys.waiting("t1"), keys.waiting("t2")) == (2, 1)
    with pytest.raises(PublishError, match="no queue takes exchange 'topics', routing key 'x'") as caught:
        publisher.publish([Outgoing(envelope(6), "x", exchange="topics")])
    assert len(caught.value.unpublished or ()) == 1


def test_a_fanout_exchange_is_a_broadcast(redis_url: str, publisher: RedisPublisher) -> None:
    listener = Keys(redis_url).redis.pubsub()
    database = redis_url.rpartition("/")[2]
    listener.psubscribe(f"/{database}.all")
    assert listener.get_message(timeout=5.0)["type"] == "psubscribe"
    queue = QueueSpec("f", exchange="all", exchange_type="fanout")
    publisher.publish([Outgoing(envelope(7), "", exchange="all", queue=queue)])
    message = listener.get_message(timeout=5.0)
    assert json.loads(message["data"])["headers"]["id"] == "7"
    listener.close()


def test_an_expiring_queue_expires(redis_url: str, publisher: RedisPublisher) -> None:
    publisher.publish([outgoing(1, QueueSpec("brief", arguments={"x-expires": 60_000}))])
    assert 0 < Keys(redis_url).redis.pttl("brief") <= 60_000


def test_headers_that_json_cannot_hold_are_refused_before_anything_is_sent(
    redis_url: str, publisher: RedisPublisher
) -> None:
    bad = envelope(2)
    bad = type(bad)(bad.body, bad.content_type, bad.content_encoding, {**bad.headers, "x": object()}, bad.properties)
    with pytest.raises(EncodeError, match="cannot be encoded as JSON"):
        publisher.publish([outgoing(1), Outgoing(bad, "q")])
    assert Keys(redis_url).waiting() == 0


def test_a_replacement_takes_its_deliverys_place_in_one_step(redis_url: str, publisher: RedisPublisher) -> None:
    publish(redis_url, [1, 2])
    keys = Keys(redis_url)
    with consuming(redis_url) as consumer:
        first, second = consumer.take(2)
        publisher.replace([Replacement(first, outgoing(11, QueueSpec("other"), priority=3))])
        assert first.settled is Settlement.ACK
        assert (keys.unacked, keys.waiting("other")) == (1, 1)
        consumer.pump_until(lambda: consumer.source.unsettled == 1)
        second.ack()
        consumer.source.flush()
    assert (keys.unacked, keys.waiting()) == (0, 0)


def test_a_delivery_that_is_not_ours_any_more_is_not_replaced(redis_url: str, publisher: RedisPublisher) -> None:
    publish(redis_url, [1])
    dead = Consumer(redis_url, lease_timeout=1.0)
    [late] = dead.take(1)
    dead.die()
    with consuming(redis_url, lease_timeout=1.0) as heir:
        [again] = heir.take(1, timeout=5.0)
        publisher.replace([Replacement(late, outgoing(11))])
        assert late.settled is None
        assert Keys(redis_url).waiting() == 0
        again.ack()


def test_a_delivery_whose_replacement_cannot_be_put_on_its_queue_stays(
    redis_url: str, publisher: RedisPublisher
) -> None:
    publish(redis_url, [1])
    keys = Keys(redis_url)
    keys.redis.set("other", "somebody's")
    with consuming(redis_url) as consumer:
        [delivery] = consumer.take(1)
        with pytest.raises(PublishError, match="not published: WRONGTYPE other is no list"):
            publisher.replace([Replacement(delivery, outgoing(11, QueueSpec("other")))])
        assert delivery.settled is None
        assert keys.unacked == 1
        keys.redis.delete("other")
        publisher.replace([Replacement(delivery, outgoing(11, QueueSpec("other")))])
        assert (keys.unacked, keys.waiting("other")) == (0, 1)


def test_a_delivery_acked_at_its_start_is_replaced_all_the_same(redis_url: str, publisher: RedisPublisher) -> None:
    publish(redis_url, [1])
    with consuming(redis_url, prefetch=1) as consumer:
        [delivery] = consumer.take(1)
        delivery.ack()
        consumer.source.flush()
        publisher.replace([Replacement(delivery, outgoing(11))])
        assert [number_of(each) for each in consumer.take(1)] == [11]


def test_a_connection_that_breaks_in_mid_publish_neither_loses_nor_doubles(redis_url: str) -> None:
    """Cut again and again while many publish: what was confirmed is there once, whatever became of the replies."""
    proxy, url = proxied(redis_url)
    publisher = open_publisher(url, timeout=20.0, connections=3)
    numbers = itertools.count()
    confirmed: list[int] = []
    enough = threading.Event()

    def work() -> None:
        while not enough.is_set():
            number = next(numbers)
            publisher.publish([outgoing(number)])
            confirmed.append(number)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for cut in range(1, 21):
        wait_until(lambda cut=cut: len(confirmed) >= cut * 20)  # type: ignore[misc]
        proxy.cut()
    enough.set()
    for thread in threads:
        thread.join(20.0)
    publisher.close()
    proxy.close()
    with consuming(redis_url, prefetch=100_000) as consumer:
        consumer.pump_until(lambda: len(consumer.got) >= len(confirmed))
        consumer.pump_for(0.2)
        assert sorted(consumer.numbers) == sorted(confirmed) == list(range(len(confirmed)))


def test_a_reply_that_is_lost_does_not_double_the_message(redis_url: str) -> None:
    """The script is run, its reply never comes: the try after that must find the note."""
    proxy, url = proxied(redis_url)
    publisher = open_publisher(url, timeout=10.0)
    publisher.publish([outgoing(0)])
    publish(redis_url, [1])
    keys = Keys(redis_url)
    with consuming(redis_url) as consumer:
        delivery = next(each for each in consumer.take(2) if number_of(each) == 1)
        keys.redis.client_pause(1_500)  # Redis holds the script back, and runs it when nobody waits for it any more
        result: list[BaseException | None] = []

        def replace() -> None:
            try:
                publisher.replace([Replacement(delivery, outgoing(11, QueueSpec("other")))])
                result.append(None)
            except BaseException as exc:
                result.append(exc)

        thread = threading.Thread(target=replace)
        thread.start()
        time.sleep(0.3)
        proxy.refuse()
        # Half-closed: what was sent reaches Redis, what it answers reaches nobody.
        proxy.freeze()
        time.sleep(1.5)
        proxy.cut()
        proxy.resume()
        proxy.refuse(False)
        thread.join(15.0)
        assert result == [None]
        assert delivery.settled is Settlement.ACK
        assert keys.waiting("other") == 1
    publisher.close()
    proxy.close()


def test_after_its_timeout_publish_says_what_is_not_published(redis_url: str) -> None:
    proxy, url = proxied(redis_url)
    publisher = open_publisher(url, timeout=1.0)
    publisher.publish([outgoing(0)])
    proxy.refuse()
    proxy.cut()
    began = time.monotonic()
    messages = [outgoing(1), outgoing(2)]
    with pytest.raises(PublishError, match=r"not published: broker redis://.*Connection reset by peer") as caught:
        publisher.publish(messages)
    assert time.monotonic() - began < 3.0
    assert caught.value.unpublished == messages
    proxy.refuse(False)
    publisher.publish(messages)
    assert Keys(redis_url).waiting() == 3
    publisher.close()
    with pytest.raises(PublishError, match="not published: closed"):
        publisher.publish(messages)
    proxy.close()


def test_a_frozen_redis_is_given_up_in_time(redis_url: str) -> None:
    proxy, url = proxied(redis_url)
    publisher = open_publisher(url, timeout=2.0)
    publisher.publish([outgoing(0)])
    proxy.freeze()
    began = time.monotonic()
    with pytest.raises(PublishError, match="not published"):
        publisher.publish([outgoing(1)])
    assert time.monotonic() - began < 4.0
    publisher.close()
    proxy.close()


def test_connections_are_bounded_and_a_caller_that_gets_none_is_told(redis_url: str) -> None:
    proxy, url = proxied(redis_url)
    publisher = open_publisher(url, timeout=1.0, connections=2)
    threads = [threading.Thread(target=publisher.publish, args=([outgoing(number)], 20.0)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert Keys(redis_url).waiting() == 20
    assert proxy.accepted == 2
    proxy.freeze()
    busy = [threading.Thread(target=publisher.publish, args=([outgoing(99)], 20.0)) for _ in range(2)]
    for thread in busy:
        thread.start()
    wait_until(lambda: publisher._links._idle.qsize() == 0)
    with pytest.raises(PublishError, match="all 2 connections are busy"):
        publisher.publish([outgoing(100)])
    proxy.cut()  # a frozen proxy has taken the connections, and goes on only with new ones
    proxy.resume()
    for thread in busy:
        thread.join(20.0)
    publisher.close()
    proxy.close()


def test_a_full_redis_is_waited_for_and_consuming_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(tmp_path) as server:
        url = server.url()
        publish(url, range(50))
        redis = Keys(url).redis
        publisher = open_publisher(url, timeout=20.0)
        redis.config_set("maxmemory", 1)
        with pytest.raises(PublishError, match=r"takes no messages at the moment \(its memory is full"):
            publisher.publish([outgoing(1)], timeout=0.3)
        assert publisher.blocked is not None and "maxmemory" in publisher.blocked
        with consuming(url, lease_timeout=3.0) as consumer:  # a session can begin, too
            consumer.take(25)[0].requeue()
            consumer.pump_for(2.0)  # renewed, put back
            consumer.ack_all()
            thread = threading.Thread(target=publisher.publish, args=([outgoing(2)],))
            thread.start()
            time.sleep(0.3)
            assert thread.is_alive()
            redis.config_set("maxmemory", 0)
            thread.join(10.0)
            assert publisher.blocked is None
            consumer.pump_until(lambda: 2 in consumer.numbers)
        publisher.close()
    assert caplog.text.count("The broker takes no messages for now") == 1
    assert caplog.text.count("The broker takes messages again") == 1
    assert "refuses" not in caplog.text, "consuming needs no memory"


def test_a_read_only_redis_is_waited_for(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "master") as master, RedisServer(tmp_path / "other") as other:
        publisher = open_publisher(master.url(), timeout=20.0)
        publisher.publish([outgoing(1)])
        redis = Keys(master.url()).redis
        redis.replicaof("127.0.0.1", other.port)
        thread = threading.Thread(target=publisher.publish, args=([outgoing(2)],))
        thread.start()
        wait_until(lambda: publisher.blocked, what="the publisher was refused")
        assert "read-only replica" in str(publisher.blocked)
        redis.replicaof("NO", "ONE")
        thread.join(10.0)
        assert publisher.blocked is None
        assert Keys(master.url()).waiting() >= 1
        publisher.close()


def test_the_next_broker_of_a_list_is_used_when_the_first_is_away(redis_url: str) -> None:
    publisher = open_publisher("redis://127.0.0.1:1/0", redis_url)
    publisher.publish([outgoing(1)])
    assert Keys(redis_url).waiting() == 1
    publisher.close()


def test_a_wrong_password_is_told_at_once(tmp_path: Path) -> None:
    with RedisServer(tmp_path, options={"requirepass": "secret-word"}) as server:
        publisher = open_publisher(f"redis://:wrong-word@127.0.0.1:{server.port}/0")
        with pytest.raises(PublishError, match="login refused: check the user and password") as caught:
            publisher.publish([outgoing(1, QUEUE)])
        assert "wrong-word" not in str(caught.value)
        publisher.close()
