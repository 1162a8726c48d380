"""Results in a real Redis: Celery's keys, SUCCESS final, waits that miss nothing, bounded connections, faults."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from greenworker import App
from greenworker.errors import ResultsAwayError, ResultsError, ResultTimeoutError, UnstorableResultError
from greenworker.protocol.results import FAILURE, RETRY, REVOKED, STARTED, SUCCESS, ResultMeta
from greenworker.results import writer as writer_module
from greenworker.results.base import ResultsOptions, make_results
from greenworker.results.redis import RedisResults
from greenworker.settings import Settings
from tests.conftest import skip_or_fail
from tests.support import amqp_certificates, redis_server
from tests.support.amqp_certificates import make_certificates
from tests.support.greenproc import run_patched
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.worker import wait_until

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
Make = Callable[..., RedisResults]


def meta(task_id: str, result: Any = None, status: str = SUCCESS, **more: Any) -> ResultMeta:
    return ResultMeta(task_id, status, result, date_done=NOW, **more)


@pytest.fixture
def make(redis_url: str) -> Iterator[Make]:
    """Makes stores, by default on a database of the test's own, and stops them."""
    made: list[RedisResults] = []

    def make_one(url: str = redis_url, **options: Any) -> RedisResults:
        results = make_results(url, ResultsOptions(create=True, **options))
        assert isinstance(results, RedisResults)
        made.append(results)
        results.start()
        return results

    yield make_one
    for each in made:
        each.stop()


@pytest.fixture
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may kill."""
    skip_or_fail(request, redis_server.missing())
    with RedisServer(tmp_path / "redis") as server:
        yield server


def stored(results: RedisResults, *metas: ResultMeta) -> None:
    for each in metas:
        results.store(each)
    assert results.flush(10)


def test_the_key_the_document_the_expiry_and_the_message_are_celerys(make: Make, redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    channel = client.pubsub(ignore_subscribe_messages=True)
    channel.subscribe("celery-task-meta-1")
    channel.get_message(timeout=5)
    stored(make(expires=3_600.0), meta("1", {"a": "ü"}, parent_id="p", group_id="g"))
    document = client.get("celery-task-meta-1")
    assert isinstance(document, bytes)
    keys = ["status", "result", "traceback", "children", "date_done", "group_id", "parent_id", "task_id"]
    assert list(json.loads(document)) == keys
    assert 3_500 < client.ttl("celery-task-meta-1") <= 3_600
    message = None
    deadline = time.monotonic() + 10
    while message is None and time.monotonic() < deadline:
        message = channel.get_message(timeout=1)
    assert message is not None and message["data"] == document
    channel.close()


def test_results_may_be_kept_for_ever(make: Make, redis_url: str) -> None:
    stored(make(expires=None), meta("1"))
    assert redis.Redis.from_url(redis_url).ttl("celery-task-meta-1") == -1


def test_what_was_stored_is_read_and_forgotten(make: Make) -> None:
    results = make()
    before = meta("1", {"a": [1, "ü", None]}, parent_id="p")
    stored(results, before)
    assert results.get("1") == before
    assert results.get("2") is None
    results.forget("1")
    assert results.get("1") is None


@pytest.mark.parametrize("serializer", ["json", "msgpack", "pickle", "yaml"])
@pytest.mark.parametrize("by", ["greenworker", "celery"])
def test_success_is_final_whoever_stored_it(serializer: str, by: str, make: Make, redis_url: str) -> None:
    results = make(serializer=serializer)
    for number, value in enumerate(("good", {"status": "FAILURE"}, "status SUCCESS", "x\nstatus: FAILURE\n" * 9)):
        task_id = f"done-{number}"
        if by == "greenworker":
            stored(results, meta(task_id, value))
        else:
            app = Celery("c", backend=redis_url, result_serializer=serializer, set_as_current=False)
            app.conf.update(result_serializer=serializer, accept_content=[serializer])
            app.backend.store_result(task_id, value, SUCCESS)
        for status in (STARTED, RETRY, FAILURE, REVOKED, SUCCESS):
            stored(results, meta(task_id, "later" if status in {SUCCESS, STARTED} else ValueError("x"), status))
        found = results.get(task_id)
        assert found is not None and (found.status, found.result) == (SUCCESS, value)


@pytest.mark.parametrize("serializer", ["json", "msgpack", "pickle", "yaml"])
def test_whatever_else_was_stored_is_not_taken_for_success(serializer: str, make: Make) -> None:
    """The script looks at the text of the document: a value that looks like a success must not fool it."""
    results = make(serializer=serializer)
    values = ("SUCCESS", {"status": SUCCESS}, ["status", "SUCCESS"], "\nstatus: SUCCESS\n", "'status': 'SUCCESS'")
    for number, value in enumerate(values):
        for status in (STARTED, "S", "STATUS SUCCESS", "SUCCESSFUL", " SUCCESS", RETRY, FAILURE):
            result = ValueError(value) if status in {RETRY, FAILURE} else value
            task_id = f"{number}-{status}"
            stored(results, meta(task_id, result, status), meta(task_id, "good"))
            found = results.get(task_id)
            assert found is not None and found.result == "good", (value, status)


def test_a_wait_ends_with_the_message_and_states_on_the_way_do_not_end_it(make: Make) -> None:
    results, reader = make(), make()
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(reader.wait("1", 10).result))
    begun = time.monotonic()
    thread.start()
    stored(results, meta("1", status=STARTED))
    wait_until(lambda: reader._channels._link is not None, what="the wait to begin")
    stored(results, meta("1", {"done": 1}, "PROGRESS"), meta("1", "good"))
    thread.join(10)
    assert got == ["good"]
    assert time.monotonic() - begun < 4, "that was the poll, not the message"


def test_a_wait_that_is_over_says_what_it_has_seen(make: Make) -> None:
    results = make()
    with pytest.raises(ResultTimeoutError, match="no record"):
        results.wait("1", 0.2)
    stored(results, meta("1", status=STARTED))
    with pytest.raises(ResultTimeoutError, match="STARTED"):
        results.wait("1", 0.2)
    assert not results._channels._listeners, "nobody listens any more"


def test_no_result_falls_between_the_look_and_the_subscription(make: Make) -> None:
    """1,000 times a result is stored just as its wait begins; one that was missed would take a poll's time."""
    results, reader = make(buffer_limit=10_000), make()
    begun = time.monotonic()
    for number in range(1_000):
        results.store(meta(str(number), number), lambda: None)
        assert reader.wait(str(number), 10).result == number
    assert time.monotonic() - begun < 40
    late: list[float] = []

    def wait(number: int) -> None:
        before = time.monotonic()
        assert reader.wait(f"w{number}", 20).result == number
        late.append(time.monotonic() - before)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for number in range(100):
        results.store(meta(f"w{number}", number), lambda: None)
    for thread in threads:
        thread.join(20)
    assert len(late) == 100 and max(late) < 4.5


def test_waits_outlive_a_restart_of_redis(own: RedisServer, make: Make) -> None:
    results, reader = make(own.url()), make(own.url())
    app = App("reader", settings=Settings())
    app.use_results(reader)
    got: dict[str, Any] = {}

    def wait(task_id: str) -> None:
        try:
            got[task_id] = app.AsyncResult(task_id).get(timeout=20)
        except ResultsError as exc:
            got[task_id] = exc

    threads = [threading.Thread(target=wait, args=(str(number),)) for number in range(5)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(reader._channels._listeners) == 5 and reader._channels._link is not None)
    own.kill()
    own.start()
    for number in range(5):
        results.store(meta(str(number), number), lambda: None)
    for thread in threads:
        thread.join(20)
    assert got == {str(number): number for number in range(5)}


def test_a_redis_that_is_away_is_told_and_comes_back(own: RedisServer, make: Make) -> None:
    results = make(own.url())
    own.kill()
    with pytest.raises(ResultsAwayError):
        results.get("1")
    called = threading.Event()
    results.store(meta("1", "good"), called.set)
    assert not called.wait(0.3)
    own.start()
    assert called.wait(10)
    found = results.get("1")
    assert found is not None and found.result == "good"


def test_a_worker_starts_while_redis_is_away(own: RedisServer, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    own.kill()
    results = make(own.url())
    assert "Tasks run all the same" in caplog.text
    called = threading.Event()
    results.store(meta("1"), called.set)
    own.start()
    assert called.wait(10)


def test_a_connection_that_hangs_is_given_up(own: RedisServer, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenworker.results.redis.CALL_TIMEOUT", 0.5)
    with Proxy(own.port) as proxy:
        results = make(f"redis://127.0.0.1:{proxy.port}/0")
        called = threading.Event()
        proxy.freeze()
        results.store(meta("1"), called.set)
        assert not called.wait(1.0)
        proxy.resume()
        assert called.wait(10)


def test_one_record_of_the_wrong_type_is_given_up_and_the_others_are_stored(
    make: Make, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    redis.Redis.from_url(redis_url).rpush("celery-task-meta-bad", "somebody's list")
    results, told = make(), []
    for task_id in ("one", "bad", "two"):
        results.store(meta(task_id, task_id), lambda task_id=task_id: told.append(task_id))
    assert results.flush(10)
    assert sorted(told) == ["bad", "one", "two"]
    assert results.get("one") is not None and results.get("two") is not None
    assert "task bad" in caplog.text and "WRONGTYPE" in caplog.text


def huge_between_two(results: RedisResults) -> ResultMeta:
    """What becomes of a record that is too large; the deliveries of all three are told that theirs is stored."""
    told: list[str] = []
    for task_id, size in (("one", 10), ("huge", 2_000_000), ("two", 10)):
        results.store(meta(task_id, "x" * size), lambda task_id=task_id: told.append(task_id))
    assert results.flush(10)
    assert sorted(told) == ["huge", "one", "two"]
    found = results.get("huge")
    assert found is not None and found.status == FAILURE
    return found


def test_a_record_that_is_too_large_becomes_a_small_failure(own: RedisServer, make: Make) -> None:
    own.options["proto-max-bulk-len"] = "1mb"
    own.restart()
    results = make(own.url())
    found = huge_between_two(results)
    assert isinstance(found.result, UnstorableResultError) and "bytes at most" in str(found.result)
    other = results.get("two")
    assert other is not None and other.status == SUCCESS


def test_a_record_that_redis_itself_finds_too_large_becomes_a_failure_too(own: RedisServer, make: Make) -> None:
    """Where an ACL forbids to ask for the limit: it hangs up on the whole pipeline, and looks as if it were away."""
    client = redis.Redis.from_url(own.url())
    client.config_set("proto-max-bulk-len", 1024 * 1024)
    client.execute_command("ACL", "SETUSER", "default", "-config")
    huge_between_two(make(own.url()))


def test_a_redis_without_memory_is_waited_for(own: RedisServer, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    client = redis.Redis.from_url(own.url())
    results, told = make(own.url()), []
    client.config_set("maxmemory", 1)
    for number in range(10):
        results.store(meta(str(number), number), lambda number=number: told.append(number))
    wait_until(lambda: "memory is full" in caplog.text)
    assert not told
    client.config_set("maxmemory", 0)
    assert results.flush(10)
    assert told == list(range(10))
    assert [found.result for number in range(10) if (found := results.get(str(number)))] == list(range(10))


@pytest.mark.parametrize("url", ["redis://:wrong@{place}/0", "redis://nobody:secret@{place}/0", "redis://{place}/0"])
def test_a_login_that_is_refused_ends_the_start_and_names_the_setting(own: RedisServer, make: Make, url: str) -> None:
    redis.Redis.from_url(own.url()).config_set("requirepass", "right")
    with pytest.raises(ResultsError, match=r"\[results\] url|Authentication required") as caught:
        make(url.format(place=f"127.0.0.1:{own.port}"))
    assert not isinstance(caught.value, ResultsAwayError)
    assert "wrong" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_user_of_an_acl_with_few_rights_will_do(own: RedisServer, make: Make) -> None:
    admin = redis.Redis.from_url(own.url())
    rights = ["+get", "+del", "+ping", "+setex", "+set", "+getrange", "+publish", "+subscribe", "+unsubscribe"]
    rights += ["+client|setname", "+evalsha", "+eval", "~celery-task-meta-*", "&celery-task-meta-*"]
    admin.execute_command("ACL", "SETUSER", "results", "on", ">p@ss", *rights)
    results = make(f"redis://results:p%40ss@127.0.0.1:{own.port}/0")
    stored(results, meta("1", "good"))
    assert results.wait("1", 5).result == "good"
    threading.Timer(0.2, lambda: results.store(meta("2", "late"))).start()
    assert results.wait("2", 4).result == "late"


def test_tls_and_unix_sockets(request: pytest.FixtureRequest, tmp_path: Path, make: Make) -> None:
    skip_or_fail(request, amqp_certificates.missing())
    files = make_certificates(tmp_path / "tls")
    port = redis_server.free_port()
    options = {"tls-port": str(port), "tls-cert-file": str(files.certificate), "tls-key-file": str(files.key)}
    options |= {"tls-ca-cert-file": str(files.ca), "tls-auth-clients": "no", "unixsocket": str(tmp_path / "s")}
    with RedisServer(tmp_path / "redis", options=options):
        connecting = dataclasses.replace(ResultsOptions().connecting, tls_ca=str(files.ca))
        over_tls = make(f"rediss://localhost:{port}/0", connecting=connecting)
        over_socket = make(f"redis+socket://{tmp_path / 's'}")
        stored(over_tls, meta("1", "good"))
        assert over_socket.wait("1", 5).result == "good"
        with pytest.raises(ResultsError, match="certificate is not trusted"):
            make(f"rediss://localhost:{port}/0")
        over_tls.stop()
        over_socket.stop()


def test_sentinels_name_the_server_and_a_failover_loses_no_result(own: RedisServer, tmp_path: Path, make: Make) -> None:
    replica = RedisServer(tmp_path / "replica", options={"replicaof": f"127.0.0.1 {own.port}".split()})
    sentinel = redis_server.Sentinel(tmp_path / "sentinel", own)
    with replica, sentinel:
        master = redis.Redis.from_url(own.url())
        wait_until(lambda: master.info("replication").get("slave0", {}).get("state") == "online")
        results = make(f"sentinel://127.0.0.1:{sentinel.port}/0?master_name={redis_server.MASTER_NAME}")
        stored(results, meta("1", "before"))
        replicated = redis.Redis.from_url(replica.url())
        wait_until(lambda: replicated.exists("celery-task-meta-1"), what="the replica to have it")
        wait_until(lambda: knows_a_replica(sentinel), 20.0, "the sentinel to know the replica")
        own.kill()
        called = threading.Event()
        results.store(meta("2", "after"), called.set)
        assert called.wait(30)
        found = [results.get(task_id) for task_id in ("1", "2")]
        assert [each.result for each in found if each] == ["before", "after"]
        assert replicated.exists("celery-task-meta-2")
        results.stop()


def knows_a_replica(sentinel: RedisServer) -> bool:
    answer = redis.Redis(port=sentinel.port).execute_command("SENTINEL", "REPLICAS", redis_server.MASTER_NAME)
    return bool(answer)


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_thousand_greenlets_share_ten_connections(pool: str, own: RedisServer) -> None:
    """All of them store a result and wait for one at the same time; Redis says how many connections there are."""
    run_patched(
        pool,
        """
import threading, time
import redis
from datetime import UTC, datetime
from greenworker.protocol.results import SUCCESS, ResultMeta
from greenworker.results.base import ResultsOptions, make_results

results = make_results(sys.argv[1], ResultsOptions(create=True))
results.start()
got, most = set(), [0]
ended = threading.Event()

def connections():
    return sum(client["name"] == "greenworker" for client in redis.Redis.from_url(sys.argv[1]).client_list())

def watch():
    while not ended.wait(0.02):
        most[0] = max(most[0], connections())

def one(number):
    value = results.wait(f"b{number}", 40).result  # nobody has stored it yet
    results.store(ResultMeta(f"a{number}", SUCCESS, number, date_done=datetime.now(UTC)), lambda: None)
    results.get(f"b{number}")
    got.add(value)

watcher = threading.Thread(target=watch)
watcher.start()
threads = [threading.Thread(target=one, args=(number,)) for number in range(1000)]
for thread in threads:
    thread.start()
deadline = time.monotonic() + 20
while len(results._channels._listeners) < 1000:
    assert time.monotonic() < deadline, len(results._channels._listeners)
    time.sleep(0.02)
for number in range(1000):
    results.store(ResultMeta(f"b{number}", SUCCESS, number, date_done=datetime.now(UTC)), lambda: None)
for thread in threads:
    thread.join(40)
assert got == set(range(1000)), len(got)
assert results.flush(20)
ended.set()
watcher.join()
assert 2 <= most[0] <= 10, most
assert all(results.get(f"a{number}").result == number for number in range(0, 1000, 50))
results.stop()
assert connections() == 0
""",
        own.url(),
    )


def test_a_limit_thrown_into_a_call_leaves_no_reply_for_the_next_caller(own: RedisServer) -> None:
    """The greenlet is thrown into while it waits for its reply: that connection must not be used again."""
    run_patched(
        "gevent",
        """
import gevent, time
from datetime import UTC, datetime
from greenworker.protocol.results import SUCCESS, ResultMeta
from greenworker.results.base import ResultsOptions, make_results
from tests.support.proxy import Proxy

port = int(sys.argv[1])
with Proxy(port) as proxy:
    results = make_results(f"redis://127.0.0.1:{proxy.port}/0", ResultsOptions(create=True, connections=2))
    results.start()
    for name in ("a", "b"):
        results.store(ResultMeta(name, SUCCESS, name, date_done=datetime.now(UTC)), lambda: None)
    assert results.flush(10)
    proxy.freeze()
    victim = gevent.spawn(results.get, "a")
    gevent.sleep(0.1)
    victim.kill()
    proxy.resume()
    for _ in range(20):
        assert results.get("b").result == "b"
        assert results.get("a").result == "a"
    results.stop()
""",
        str(own.port),
    )


def test_a_forgotten_listener_thread_ends(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenworker.results.redis_channels.IDLE_LIMIT", 0.3)
    results = make()
    with pytest.raises(ResultTimeoutError):
        results.wait("1", 0.1)
    wait_until(lambda: results._channels._thread is None, what="the listener to end")
    assert results._channels._link is None
    threading.Timer(0.2, lambda: results.store(meta("2", "late"))).start()
    assert results.wait("2", 10).result == "late"


def test_the_writers_batch_is_one_pipeline(make: Make) -> None:
    """1,000 results that wait together take few round trips."""
    results = make(buffer_limit=10_000)
    calls: list[int] = []
    call = results._links.call

    def counted(commands: Any, timeout: float) -> list[Any]:
        calls.append(len(commands))
        return call(commands, timeout)

    results._links.call = counted  # type: ignore[method-assign]
    told = threading.Event()
    results.store(meta("first"), told.wait)  # type: ignore[arg-type]
    for number in range(1_000):
        results.store(meta(str(number)), lambda: None)
    told.set()
    assert results.flush(10)
    assert len(calls) <= 3 + 1_000 // writer_module.BATCH + 2
