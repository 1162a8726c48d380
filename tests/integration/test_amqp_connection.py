"""Connecting to RabbitMQ and losing it: refusals that say what to do, TLS, heartbeats, alarms, cuts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.support import amqp_certificates
from tests.support import rabbitmq as rabbitmq_support
from tests.support.amqp_certificates import Certificates, make_certificates
from tests.support.greenproc import POOLS, run_patched
from tests.support.proxy import Proxy
from tests.support.rabbitmq import RabbitMQ, free_port

each_pool = pytest.mark.parametrize("pool", POOLS)

PRELUDE = """
import sys, time, json, threading
from greenworker.broker.connection import ConnectionLostError, LoginRefusedError, open_first
from greenworker.broker.delivery import QueueSpec
from greenworker.errors import BrokerError
from tests.support.amqp_scenes import *
URL = sys.argv[1]
got = []

def refusal(*args, **connecting):
    try:
        open_source(POOL, *args, got.append, **connecting)
    except BrokerError as exc:
        return exc
    raise AssertionError("it connected")
"""


def run(pool: str, source: str, *argv: str | Path) -> str:
    return run_patched(pool, PRELUDE + source, *map(str, argv))


@each_pool
def test_refusals_say_what_to_do_and_never_the_password(pool: str, rabbitmq: RabbitMQ) -> None:
    run(
        pool,
        """
port, free = sys.argv[2:]
wrong = refusal(f"amqp://guest:s3cr3t@127.0.0.1:{port}//")
assert isinstance(wrong, LoginRefusedError) and "check the user and password in [broker] url" in str(wrong), wrong
nowhere = refusal(f"amqp://guest:guest@127.0.0.1:{port}/nosuch")
assert isinstance(nowhere, LoginRefusedError) and "virtual host" in str(nowhere) and "nosuch" in str(nowhere), nowhere
away = refusal(f"amqp://guest:s3cr3t@127.0.0.1:{free}//")
assert not isinstance(away, LoginRefusedError) and "is the broker running, and is the port right" in str(away), away
unread = refusal(f"amqp://guest:s3cr3t@127.0.0.1:s3cr3t//")
assert "expected scheme://user:password@host:port/vhost" in str(unread), unread
tls = refusal(f"amqps://guest:s3cr3t@127.0.0.1:{port}//")
assert "TLS" in str(tls), tls
for error in (wrong, nowhere, away, unread, tls):
    assert "s3cr3t" not in str(error), error
""",
        rabbitmq.url,
        str(rabbitmq.port),
        str(free_port()),
    )


@each_pool
def test_a_broker_that_takes_the_connection_and_says_nothing(pool: str, rabbitmq: RabbitMQ) -> None:
    with Proxy(rabbitmq.port) as proxy:
        proxy.freeze()
        run(
            pool,
            """
for scheme in ("amqp", "amqps"):
    began = time.monotonic()
    error = refusal(f"{scheme}://guest:guest@127.0.0.1:{sys.argv[2]}//", connect_timeout=0.5)
    assert "no answer within [broker] connect_timeout" in str(error), error
    assert time.monotonic() - began < 3
""",
            rabbitmq.url,
            str(proxy.port),
        )


def test_a_password_may_hold_anything(rabbitmq: RabbitMQ) -> None:
    password = "a;b#c/d?e:f%25[g]"
    rabbitmq.ctl("add_user", "odd", "a;b#c/d?e:f%[g]")
    try:
        rabbitmq.ctl("set_permissions", "-p", "/", "odd", ".*", ".*", ".*")
        run(
            "threads",
            "open_source(POOL, URL, got.append).close()",
            f"amqp://odd:{password}@127.0.0.1:{rabbitmq.port}//",
        )
    finally:
        rabbitmq.ctl("delete_user", "odd")


@each_pool
def test_the_first_broker_of_the_list_that_answers(pool: str, rabbitmq: RabbitMQ, rabbitmq_url: str) -> None:
    run(
        pool,
        """
dead = f"amqp://guest:guest@127.0.0.1:{sys.argv[2]}//"
open_first((dead, URL), ConnectionOptions()).release()
try:
    open_first((dead, dead), ConnectionOptions())
except BrokerError as exc:
    assert str(exc).count("connection refused") == 2, exc
else:
    raise AssertionError("it connected")
publisher = open_publisher(dead, URL)
publisher.publish([Outgoing(envelope(1), "q", queue=QueueSpec("q"))])
publisher.close()
""",
        rabbitmq_url,
        str(free_port()),
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates | None:
    if amqp_certificates.missing():
        return None
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_session(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates | None
) -> Iterator[tuple[RabbitMQ, int] | None]:
    if rabbitmq_support.missing() or certificates is None:
        yield None
        return
    port = free_port()
    server = RabbitMQ(
        tmp_path_factory.mktemp("rabbitmq-tls"),
        f"listeners.ssl.1 = 127.0.0.1:{port}\n"
        f"ssl_options.cacertfile = {certificates.ca}\n"
        f"ssl_options.certfile = {certificates.certificate}\n"
        f"ssl_options.keyfile = {certificates.key}\n",
    )
    server.start()
    yield server, port
    server.stop()


@pytest.fixture
def tls_url(request: pytest.FixtureRequest, tls_session: tuple[RabbitMQ, int] | None) -> str:
    skip_or_fail(request, rabbitmq_support.missing() or amqp_certificates.missing())
    assert tls_session is not None
    server, port = tls_session
    return server.new_vhost().replace("amqp://", "amqps://").replace(f":{server.port}/", f":{port}/")


@each_pool
def test_tls_is_verified(pool: str, tls_url: str, certificates: Certificates, tmp_path: Path) -> None:
    other = make_certificates(tmp_path / "other", "somebody else")
    run(
        pool,
        """
ca, other_ca = sys.argv[2:]
for error in (refusal(URL), refusal(URL, tls_ca=other_ca)):
    assert isinstance(error, LoginRefusedError) and "certificate is not trusted" in str(error), error
    assert "set [broker] tls_ca" in str(error), error
open_source(POOL, URL, got.append, tls_ca=ca).close()
open_source(POOL, URL, got.append, tls_verify=False).close()
""",
        tls_url,
        certificates.ca,
        other.ca,
    )


@each_pool
def test_messages_over_tls(pool: str, tls_url: str, certificates: Certificates) -> None:
    """Many small ones, acked while more come in, and one in many TLS records."""
    run(
        pool,
        """
import dataclasses
queue = QueueSpec("q")
publisher = open_publisher(URL, tls_ca=sys.argv[2])
messages = [Outgoing(envelope(number), "q", queue=queue) for number in range(1000)]
messages[500] = dataclasses.replace(messages[500], envelope=dataclasses.replace(envelope(500), body=b"x" * 3_000_000))
publisher.publish(messages)
source = open_source(POOL, URL, got.append, tls_ca=sys.argv[2])
source.start([queue], 50)
settled = 0
def turn():
    global settled
    source.pump(0.2)
    while settled < len(got):
        got[settled].ack()
        settled += 1
wait_until(lambda: len(got) == 1000, turn)
source.flush()
assert sorted(map(number_of, got)) == list(range(1000)) and source.unsettled == 0
assert max(len(delivery.envelope.body) for delivery in got) == 3_000_000
source.close()
publisher.close()
""",
        tls_url,
        certificates.ca,
    )


@each_pool
def test_heartbeats_keep_an_idle_connection_and_find_a_frozen_one(pool: str, rabbitmq: RabbitMQ) -> None:
    """The proxy freezes when the process says so, on its standard output; no loss is seen before that."""
    import subprocess
    import sys

    from tests.support.greenproc import ROOT

    vhost = rabbitmq.new_vhost().rpartition("/")[2]
    with Proxy(rabbitmq.port) as proxy:
        script = f"""
from greenworker.green.patching import patch; AUDIT = patch({pool!r}); POOL = {pool!r}
{PRELUDE}
source = open_source(POOL, URL, got.append, heartbeat=1.0)
source.start([QueueSpec("q")], 10)
pump_quiet(source, 4.0)  # longer than the broker waits for ours
print("freeze", flush=True)
sys.stdin.readline()
began = time.monotonic()
try:
    pump_quiet(source, 20)
except ConnectionLostError as exc:
    lost_after = time.monotonic() - began
    assert 0.9 < lost_after < 4.0, lost_after
else:
    raise AssertionError("not noticed")
began = time.monotonic()
source.close()
assert time.monotonic() - began < 1.0
"""
        with subprocess.Popen(
            [sys.executable, "-c", script, rabbitmq.url_of(vhost, proxy.port)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            said = process.stdout.readline()
            proxy.freeze()
            _, errors = process.communicate("frozen\n", timeout=40)
            assert said == "freeze\n", errors
            assert process.returncode == 0, errors


@each_pool
def test_a_loop_that_was_blocked_longer_than_the_heartbeats_does_not_blame_the_broker(
    pool: str, rabbitmq_url: str
) -> None:
    """Nothing was read for three heartbeats, but the broker's are there to be read."""
    run(
        pool,
        """
from greenworker.green.greens import library
source = open_source(POOL, URL, got.append, heartbeat=2.0)
source.start([QueueSpec("q")], 10)
pump_quiet(source, 1.0)
library(POOL).original("time", "sleep")(3.0)  # the whole process; the broker hangs up only after 4
source.connection.last_heartbeat_received -= 10  # as if it had been longer
pump_quiet(source, 2.0)
source.close()
""",
        rabbitmq_url,
    )


@each_pool
def test_a_cut_is_told_as_a_lost_connection_by_every_method(pool: str, rabbitmq: RabbitMQ) -> None:
    vhost = rabbitmq.new_vhost().rpartition("/")[2]
    with Proxy(rabbitmq.port) as proxy:
        run(
            pool,
            """
import kombu
direct = sys.argv[2]
queue = QueueSpec("q")
publish(direct, queue, range(20))
source = open_source(POOL, URL, got.append)
source.start([queue], 10)
pump_until(source, lambda: len(got) == 10)
def close_all_but_ours():
    with kombu.Connection(direct) as other:
        pass
source.connection.sock.shutdown(2)  # the socket is dead, as after a reset
try:
    for _ in range(10):
        got[0].ack()
        source.pump(0.2)
except ConnectionLostError:
    pass
else:
    raise AssertionError("not noticed")
assert source.closed and got[0].source.closed
got[1].ack()  # dropped
calls = [lambda: source.pump(0.1), source.flush, source.turn, lambda: source.cancel_queue("q"),
         lambda: source.add_queue(queue), lambda: source.start([queue], 1), source.stop]
for call in calls:
    try:
        call()
    except ConnectionLostError:
        continue
    raise AssertionError(f"{call} said nothing")
source.wake(); source.set_prefetch(3); source.close(); source.close()
again = open_source(POOL, URL, got.append)
again.start([queue], 30)
del got[:]
pump_until(again, lambda: len(got) == 20)
assert {number_of(delivery) for delivery in got} == set(range(20))
again.close()
""",
            rabbitmq.url_of(vhost, proxy.port),
            rabbitmq.url_of(vhost),
        )


@each_pool
def test_a_killed_broker_is_told_as_a_lost_connection(
    pool: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    skip_or_fail(request, rabbitmq_support.missing())
    server = RabbitMQ(tmp_path / "own")
    server.start()
    try:
        assert server.pid is not None
        run(
            pool,
            """
import os, signal
source = open_source(POOL, URL, got.append)
source.start([QueueSpec("q")], 10)
os.killpg(int(sys.argv[2]), signal.SIGKILL)
try:
    pump_quiet(source, 10)
except ConnectionLostError as exc:
    assert str(exc)
else:
    raise AssertionError("not noticed")
source.close()
""",
            server.url,
            str(server.pid),
        )
    finally:
        server.stop()


@each_pool
def test_an_alarm_is_told_and_consuming_goes_on(pool: str, rabbitmq: RabbitMQ) -> None:
    url = rabbitmq.new_vhost()
    raise_alarm, clear = (
        "vm_memory_monitor:set_vm_memory_high_watermark({absolute, 1000000}).",
        ("vm_memory_monitor:set_vm_memory_high_watermark({absolute, 4000000000})."),
    )
    import subprocess
    import sys

    from tests.support.greenproc import ROOT

    script = f"""
from greenworker.green.patching import patch; AUDIT = patch({pool!r}); POOL = {pool!r}
{PRELUDE}
from greenworker.errors import PublishError
queue = QueueSpec("q")
publish(URL, queue, range(10))
publisher = open_publisher(URL)
publisher.publish([Outgoing(envelope(10), "q", queue=queue)])
source = open_source(POOL, URL, got.append)
source.start([queue], 5)
print("alarm", flush=True)
sys.stdin.readline()
for _ in range(2):
    try:
        publisher.publish([Outgoing(envelope(11), "q", queue=queue)], timeout=1.0)
    except PublishError as exc:
        assert "takes no messages at the moment" in str(exc), exc
    else:
        raise AssertionError("published during an alarm")
assert isinstance(publisher.blocked, str), publisher.blocked
handed_out = 0
def turn():
    global handed_out
    source.pump(0.2)
    for delivery in got[handed_out:]:
        delivery.ack()
    handed_out = len(got)
wait_until(lambda: len(got) >= 11, turn)  # acks go through: nothing was published over this connection
print("clear", flush=True)
sys.stdin.readline()
publisher.publish([Outgoing(envelope(12), "q", queue=queue)])
assert publisher.blocked is None, publisher.blocked
pump_until(source, lambda: any(number_of(delivery) == 12 for delivery in got))
source.close()
publisher.close()
"""
    try:
        with subprocess.Popen(
            [sys.executable, "-c", script, url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            for said, action in (("alarm\n", raise_alarm), ("clear\n", clear)):
                if process.stdout.readline() == said:
                    rabbitmq.evaluate(action)
                    process.stdin.write("done\n")
                    process.stdin.flush()
            _, errors = process.communicate(timeout=40)
            assert process.returncode == 0, errors
    finally:
        rabbitmq.evaluate(clear)
