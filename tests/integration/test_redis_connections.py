"""How a Redis is reached: TLS, sockets, users, sentinels; what refuses us is told; what breaks is mended."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenworker.broker.connection import ConnectionLostError, ConnectionOptions, LoginRefusedError
from greenworker.broker.redis.link import open_link
from greenworker.errors import BrokerError
from tests.conftest import skip_or_fail
from tests.support import amqp_certificates
from tests.support.amqp_scenes import number_of
from tests.support.proxy import Proxy
from tests.support.rabbitmq import free_port
from tests.support.redis_scenes import Consumer, Keys, consuming, open_publisher, outgoing, publish
from tests.support.redis_server import MASTER_NAME, RedisServer, Sentinel, client, missing
from tests.support.worker import wait_until


@pytest.fixture(autouse=True)
def _redis_is_here(request: pytest.FixtureRequest) -> None:
    skip_or_fail(request, missing())


def round_trip(url: str, options: ConnectionOptions | None = None) -> None:
    """Publish, wake up, take, ack."""
    options = options or ConnectionOptions()
    with consuming(url, connecting=options) as consumer:
        consumer.pump_for(0.1)
        publisher = open_publisher(
            url, **{name: getattr(options, name) for name in ("tls_ca", "tls_cert", "tls_key", "tls_verify")}
        )
        publisher.publish([outgoing(1)])
        publisher.close()
        consumer.take(1)[0].ack()
        consumer.source.flush()


# --- TLS


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, amqp_certificates.Certificates]]:
    if amqp_certificates.missing() or missing():
        pytest.skip(str(amqp_certificates.missing() or missing()))
    folder = tmp_path_factory.mktemp("redis-tls")
    made = amqp_certificates.make_certificates(folder / "certificates")
    port = free_port()
    options = {
        "tls-port": str(port),
        "tls-cert-file": str(made.certificate),
        "tls-key-file": str(made.key),
        "tls-ca-cert-file": str(made.ca),
        "tls-auth-clients": "optional",
    }
    with RedisServer(folder / "server", options=options):
        yield f"rediss://127.0.0.1:{port}/3", made


def test_tls_is_verified(tls_server: tuple[str, amqp_certificates.Certificates], tmp_path: Path) -> None:
    url, made = tls_server
    round_trip(url, ConnectionOptions(tls_ca=str(made.ca)))
    round_trip(url, ConnectionOptions(tls_ca=str(made.ca), tls_cert=str(made.certificate), tls_key=str(made.key)))
    with pytest.raises(LoginRefusedError, match=r"its certificate is not trusted .*set \[broker\] tls_ca"):
        open_link(url, ConnectionOptions())
    other = amqp_certificates.make_certificates(tmp_path / "other")
    with pytest.raises(LoginRefusedError, match="not trusted"):
        open_link(url, ConnectionOptions(tls_ca=str(other.ca)))
    round_trip(url, ConnectionOptions(tls_verify=False))


def test_tls_to_a_port_without_it_is_told(redis_url: str) -> None:
    with pytest.raises(BrokerError, match="TLS port"):
        open_link(redis_url.replace("redis://", "rediss://"), ConnectionOptions(connect_timeout=2.0))


# --- sockets, users, databases


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with RedisServer(tmp_path / "server", options={"unixsocket": str(path)}):
        round_trip(f"redis+socket://{path}?virtual_host=2")
        with pytest.raises(BrokerError, match="No such file"):
            open_link(f"redis+socket://{tmp_path}/nothing.sock", ConnectionOptions())


def test_a_user_with_no_more_rights_than_are_asked_for(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        admin = client(server.url())
        admin.execute_command(
            *("ACL", "SETUSER", "worker", "on", ">p@ss:word/1", "~*", "&*", "+@all", "-@dangerous"),
        )
        url = f"redis://worker:p%40ss%3Aword%2F1@127.0.0.1:{server.port}/1"
        round_trip(url)
        with pytest.raises(LoginRefusedError, match="login refused: check the user and password") as caught:
            open_link(url.replace("word", "wrong"), ConnectionOptions())
        assert "wrong" not in str(caught.value)
        assert "worker:***@" in str(caught.value)


def test_without_the_right_to_be_told_of_messages_it_looks_for_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path) as server:
        admin = client(server.url())
        admin.execute_command("ACL", "SETUSER", "worker", "on", ">secret", "~*", "resetchannels", "+@all")
        url = f"redis://worker:secret@127.0.0.1:{server.port}/1"
        round_trip(url)
        admin.execute_command("ACL", "SETUSER", "worker", "&*", "-client|tracking")
        round_trip(url)
    assert caplog.text.count("Redis does not tell when messages come") == 2
    assert caplog.text.count("the user's rights (ACL) do not allow it") == 2


def test_a_command_that_is_not_allowed_is_named(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        client(server.url()).execute_command("ACL", "SETUSER", "worker", "on", ">secret", "~*", "&*", "+@all", "-eval")
        url = f"redis://worker:secret@127.0.0.1:{server.port}/0"
        with pytest.raises(BrokerError, match=r"ACL\) do not allow it.*'eval' command"):
            Consumer(url)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://127.0.0.1:1/0", "connection refused: is the broker running"),
        ("redis://no-such-host.invalid/0", "name was not found"),
        ("redis://127.0.0.1/x", "number of a database"),
        ("sentinel://127.0.0.1:1/0", "master_name"),
        (f"sentinel://127.0.0.1:1/0?master_name={MASTER_NAME}", "no sentinel knows a master"),
    ],
)
def test_what_cannot_be_reached_is_told(url: str, told: str) -> None:
    with pytest.raises(BrokerError, match=told):
        open_link(url, ConnectionOptions(connect_timeout=2.0))


def test_a_silent_port_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(BrokerError, match="connect_timeout"):
            open_link(f"redis://:word@127.0.0.1:{silent.getsockname()[1]}/0", ConnectionOptions(connect_timeout=0.5))
        assert time.monotonic() - began < 3.0


def test_a_database_that_is_not_there_is_told(redis_url: str) -> None:
    with pytest.raises(BrokerError, match="DB index is out of range"):
        open_link(redis_url.rpartition("/")[0] + "/99999", ConnectionOptions())


# --- lines that break


@pytest.fixture
def proxied(redis_url: str) -> Iterator[tuple[Proxy, str]]:
    host, _, database = redis_url.rpartition("/")
    with Proxy(int(host.rpartition(":")[2])) as proxy:
        yield proxy, f"redis://127.0.0.1:{proxy.port}/{database}"


def test_a_cut_line_is_mended_and_loses_and_doubles_nothing(
    redis_url: str, proxied: tuple[Proxy, str], caplog: pytest.LogCaptureFixture
) -> None:
    proxy, url = proxied
    publish(redis_url, range(2_000))
    with consuming(url, prefetch=50) as consumer:
        numbers: list[int] = []
        cuts = 0
        deadline = time.monotonic() + 40.0
        while len(numbers) < 2_000:
            assert time.monotonic() < deadline, len(numbers)
            if len(numbers) >= (cuts + 1) * 250:
                proxy.cut()
                cuts += 1
            consumer.source.pump(0.2)
            numbers += [
                number for number, delivery in zip(consumer.numbers, consumer.got, strict=True) if delivery.ack()
            ]
            consumer.got.clear()
        assert cuts == 7
        consumer.source.flush()
        again = [number for number in set(numbers) if numbers.count(number) > 1]
        assert set(numbers) == set(range(2_000))
        assert not again, "acked under a session that lived on"
    assert Keys(redis_url).left() == set()
    assert "after their lease had run out" not in caplog.text
    assert caplog.text.count("broke, connecting again") == caplog.text.count("again, after") > 0


def test_an_idle_source_notices_a_cut_and_wakes_as_before(redis_url: str, proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied
    with consuming(url) as consumer:
        consumer.pump_for(0.3)
        proxy.cut()
        consumer.pump_until(lambda: not consumer.source._line.up, timeout=2.0)
        consumer.pump_until(lambda: consumer.source._line.up, timeout=3.0)
        consumer.pump_for(0.3)
        publish(redis_url, [1])
        began = time.monotonic()
        consumer.source.pump(1.0)  # ends when the bell rings
        consumer.source.pump(1.0)
        assert consumer.numbers == [1]
        assert time.monotonic() - began < 0.8


def test_a_frozen_line_is_given_up_and_mended(redis_url: str, proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied
    publish(redis_url, [1, 2])
    with consuming(url, prefetch=1, connecting=ConnectionOptions(heartbeat=1.0), lease_timeout=20.0) as consumer:
        [delivery] = consumer.take(1)
        proxy.freeze()
        delivery.ack()
        consumer.pump_until(lambda: not consumer.source._line.up, timeout=5.0)
        proxy.cut()
        proxy.resume()
        consumer.take(1)
        assert Keys(redis_url).unacked == 1


def test_a_line_that_cannot_be_mended_is_a_lost_connection(redis_url: str, proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied
    publish(redis_url, [1])
    consumer = Consumer(url, lease_timeout=1.0)
    consumer.take(1)
    proxy.refuse()
    proxy.cut()
    began = time.monotonic()
    with pytest.raises(ConnectionLostError, match="no connection to Redis for"):
        consumer.pump_for(10.0)
    assert 0.8 < time.monotonic() - began < 4.0
    consumer.close()
    with consuming(redis_url, lease_timeout=1.0) as heir:
        heir.take(1)


# --- replicas and sentinels


def test_a_replica_is_told_and_not_consumed_from(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "master") as master:
        replica = RedisServer(tmp_path / "replica", options={"replicaof": ["127.0.0.1", str(master.port)]})
        with replica, pytest.raises(BrokerError, match="it is a read-only replica"):
            Consumer(replica.url())


def test_a_master_that_becomes_a_replica_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(tmp_path / "one") as one:
        publish(one.url(), range(3))
        admin = client(one.url())
        with consuming(one.url(), prefetch=2, lease_timeout=20.0) as consumer:
            [first, second] = consumer.take(2)
            admin.replicaof("127.0.0.1", 1)  # nobody there: it keeps its data
            first.ack()
            consumer.pump_for(1.5)
            assert consumer.got == []
            admin.replicaof("NO", "ONE")
            [third] = consumer.take(1)
            assert number_of(third) == 2
            assert Keys(one.url()).unacked == 2, "the ack of before is there"
            second.ack()
            third.ack()
            consumer.source.flush()
        assert Keys(one.url()).left() == set()
    assert caplog.text.count("it is a read-only replica") == 1
    assert caplog.text.count("again, after") == 1


def test_sentinels_lead_to_the_master_and_after_a_failover_to_the_next(tmp_path: Path) -> None:
    master = RedisServer(tmp_path / "master")
    replica = RedisServer(tmp_path / "replica", options={"replicaof": ["127.0.0.1", str(master.port)]})
    sentinel = Sentinel(tmp_path / "sentinel", master)
    with master, replica, sentinel:
        wait_until(lambda: client(f"redis://127.0.0.1:{sentinel.port}").sentinel_master(MASTER_NAME)["num-slaves"] == 1)
        # The first sentinel of the list is away.
        url = f"sentinel://127.0.0.1:1;127.0.0.1:{sentinel.port}/0?master_name={MASTER_NAME}"
        publisher = open_publisher(url, timeout=25.0)
        publisher.publish([outgoing(number) for number in range(10)])
        with consuming(url, prefetch=5, lease_timeout=30.0) as consumer:
            held = consumer.take(5)
            wait_until(lambda: Keys(replica.url()).unacked == 5 and Keys(replica.url()).waiting() == 5)
            held[0].ack()
            consumer.source.flush()
            wait_until(lambda: Keys(replica.url()).unacked == 4)
            master.kill()
            publisher.publish([outgoing(99)])  # waits for the new master
            for delivery in held[1:]:
                delivery.ack()
            consumer.pump_until(lambda: len(consumer.got) == 5, timeout=25.0)
            consumer.ack_all()
            assert number_of(consumer.take(1)[0]) == 99
            consumer.ack_all()
        publisher.close()
        assert Keys(replica.url()).unacked == 0
