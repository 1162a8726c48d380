"""Results sent over the broker: to the sender's queue, in any kind of process; no error where nobody waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kombu
import pytest

from greenworker import App
from greenworker.errors import BrokerError, ResultTimeoutError, SettingsError
from greenworker.protocol.results import FAILURE, STARTED, SUCCESS, ResultMeta
from greenworker.results import rpc as rpc_module
from greenworker.results.base import make_results
from greenworker.results.rpc import RpcResults
from greenworker.settings import load_settings
from tests.support.greenproc import run_patched, run_python
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis_server import client
from tests.support.worker import Worker, wait_until, write_ini

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
BROKERS = ("rabbitmq", "redis")
MakeApp = Callable[..., App]


def meta(task_id: str, result: Any, status: str = SUCCESS, *, reply_to: str | None) -> ResultMeta:
    return ResultMeta(task_id, status, result, date_done=NOW, reply_to=reply_to, correlation_id=task_id)


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    apps: list[App] = []

    def make(url: str, **results: object) -> App:
        config = write_ini(
            tmp_path / f"{len(apps)}.ini", {"broker": {"url": url}, "results": {"url": "rpc://", **results}}
        )
        apps.append(App("rpc", settings=load_settings(config_files=(config,), environ={})))
        return apps[-1]

    yield make
    for app in apps:
        app.close()


@pytest.fixture(params=BROKERS)
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


def store_of(app: App) -> RpcResults:
    store = app.results
    assert isinstance(store, RpcResults)
    return store


def test_results_come_to_the_sender_and_to_nobody_else(url: str, make_app: MakeApp) -> None:
    worker, sender, other = (store_of(make_app(url)) for _ in range(3))
    address = sender.reply_to()
    assert other.reply_to() != address == sender.reply_to()
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append(sender.wait("1", 10).result))
    waiting.start()
    worker.store(meta("1", None, STARTED, reply_to=address))
    worker.store(meta("1", "good", reply_to=address))
    waiting.join(10)
    assert got == ["good"]
    with pytest.raises(ResultTimeoutError):
        other.wait("1", 0.3)
    found = sender.get("1")
    assert found is not None and found.result == "good" and found.date_done == NOW
    sender.forget("1")
    assert sender.get("1") is None


def test_a_reply_queue_that_is_gone_and_a_task_without_one_are_no_errors(
    url: str, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    worker = store_of(make_app(url))
    told: list[str] = []
    worker.store(meta("1", "x", reply_to="nobody-has-this-queue"), lambda: told.append("gone"))
    worker.store(meta("2", "x", reply_to=None), lambda: told.append("none"))
    assert worker.flush(10)
    assert sorted(told) == ["gone", "none"]
    assert not [each for each in caplog.records if each.levelname in {"ERROR", "WARNING"}]


def test_on_redis_what_nobody_fetches_expires(redis_url: str, make_app: MakeApp) -> None:
    worker = store_of(make_app(redis_url, expires="1h"))
    worker.store(meta("1", "x", reply_to="nobody-has-this-queue"))
    assert worker.flush(10)
    assert 3_500 < client(redis_url).ttl("nobody-has-this-queue") <= 3_600


@pytest.mark.parametrize(("persistent", "mode"), [("no", 1), ("yes", 2)])
def test_messages_are_celerys(rabbitmq_url: str, make_app: MakeApp, persistent: str, mode: int) -> None:
    worker = store_of(make_app(rabbitmq_url, persistent=persistent))
    with kombu.Connection(rabbitmq_url) as connection:
        queue = kombu.Queue("somebody", channel=connection.channel())
        queue.declare()
        worker.store(meta("1", {"a": 1}, reply_to="somebody"))
        assert worker.flush(10)
        message = queue.get()
        assert message is not None
        assert message.content_type == "application/json" and message.content_encoding == "utf-8"
        assert message.properties["correlation_id"] == "1"
        assert message.properties["delivery_mode"] == mode
        keys = ["status", "result", "traceback", "children", "date_done", "task_id"]
        assert list(message.decode()) == keys


def test_the_reply_queue_is_declared_as_celerys(rabbitmq: RabbitMQ, rabbitmq_url: str, make_app: MakeApp) -> None:
    from celery import Celery

    app = make_app(rabbitmq_url, expires="1d")
    name = store_of(app).reply_to()
    theirs = Celery("c", broker=rabbitmq_url, backend="rpc://", set_as_current=False).backend.binding
    with kombu.Connection(rabbitmq_url) as connection:
        # A declaration that differs would be refused by the broker.
        queue = kombu.Queue(
            name, durable=theirs.durable, auto_delete=theirs.auto_delete, expires=theirs.expires, no_declare=False
        )
        queue(connection.channel()).queue_declare()
    app.close()
    with kombu.Connection(rabbitmq_url) as connection:
        channel = connection.channel()
        wait_until(lambda: not exists(connection, name), what="the broker to delete the queue")
        channel.close()


def exists(connection: Any, queue: str) -> bool:
    channel = connection.channel()
    try:
        channel.queue_declare(queue, passive=True)
    except connection.channel_errors:
        return False
    channel.close()
    return True


def test_a_thousand_waits_share_one_connection(rabbitmq: RabbitMQ, rabbitmq_url: str) -> None:
    run_patched(
        "gevent",
        """
import threading, time
from greenworker import App
from greenworker.protocol.results import SUCCESS, ResultMeta
app = App("rpc", broker=sys.argv[1], results="rpc://")
address = app.results.reply_to()
got = set()
threads = [threading.Thread(target=lambda number=number: got.add(app.results.wait(str(number), 40).result))
           for number in range(1000)]
for thread in threads:
    thread.start()
deadline = time.monotonic() + 20
while len(app.results._waits) < 1000:
    assert time.monotonic() < deadline
    time.sleep(0.02)
for number in range(1000):
    app.results.store(ResultMeta(str(number), SUCCESS, number, reply_to=address), lambda: None)
for thread in threads:
    thread.join(40)
assert got == set(range(1000)), len(got)
assert not app.results._waits
app.close()
""",
        rabbitmq_url,
    )


@pytest.mark.parametrize("kind", ["unpatched", "gevent", "eventlet"])
def test_any_kind_of_process_gets_its_results(kind: str, url: str, tmp_path: Path) -> None:
    """A whole round: a worker process, and a client of each kind with many calls at once."""
    source = """
import sys, threading
from greenworker import App
app = App("results", broker=sys.argv[1], results="rpc://")
got = []
def call(number):
    got.append(app.send_task("results.add", [number, 1]).get(timeout=30) == number + 1)
threads = [threading.Thread(target=call, args=(number,)) for number in range(50)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(40)
assert got == [True] * 50, got
try:
    app.send_task("results.fail", ["x"]).get(timeout=30)
except Exception as exc:
    assert type(exc).__name__ == "ShopError" and exc.args == ("x",), exc
else:
    raise AssertionError
app.close()
print("well")
"""
    ini = {"broker": {"url": url}, "results": {"url": "rpc://"}}
    with Worker(tmp_path, app="tests.support.result_tasks_ours:app", ini=ini):
        printed = run_python(source, url) if kind == "unpatched" else run_patched(kind, source, url)
    assert printed == "well\n"


def test_results_come_again_after_the_connection_was_lost(
    rabbitmq: RabbitMQ, rabbitmq_url: str, make_app: MakeApp
) -> None:
    worker, sender = store_of(make_app(rabbitmq_url)), store_of(make_app(rabbitmq_url))
    address = sender.reply_to()
    ready = sender._replies._ready
    rabbitmq.evaluate('[rabbit_networking:close_connection(P, "test") || P <- rabbit_networking:connections()], ok.')
    wait_until(lambda: not ready.is_set(), what="the loss to be noticed")
    assert sender.reply_to() == address
    worker.store(meta("1", "good", reply_to=address))
    assert sender.wait("1", 10).result == "good"


def test_sending_fails_where_no_reply_queue_can_be_declared(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenworker.results.replies.READY_TIMEOUT", 0.5)
    app = make_app("amqp://127.0.0.1:1//")
    with pytest.raises(BrokerError, match="queue for results"):
        app.send_task("results.add", [1, 1])


def test_states_that_nobody_waits_for_are_bounded(
    rabbitmq_url: str, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_module, "STATES_LIMIT", 50)
    worker, sender = store_of(make_app(rabbitmq_url)), store_of(make_app(rabbitmq_url))
    address = sender.reply_to()
    for number in range(200):
        worker.store(meta(str(number), number, reply_to=address), lambda: None)
    assert sender.wait("199", 10).result == 199
    assert len(sender._states) == 50
    assert sender.get("0") is None and sender.get("150") is not None


def test_a_state_that_was_overtaken_changes_nothing(rabbitmq_url: str, make_app: MakeApp) -> None:
    worker, sender = store_of(make_app(rabbitmq_url)), store_of(make_app(rabbitmq_url))
    address = sender.reply_to()
    for status, result in ((SUCCESS, "good"), (STARTED, None), (FAILURE, ValueError("late"))):
        worker.store(meta("1", result, status, reply_to=address))
    worker.store(meta("2", "last", reply_to=address))
    sender.wait("2", 10)
    found = sender.get("1")
    assert found is not None and (found.status, found.result) == (SUCCESS, "good")


def test_what_is_no_result_is_told_and_does_not_end_the_wait(
    rabbitmq_url: str, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    worker, sender = store_of(make_app(rabbitmq_url)), store_of(make_app(rabbitmq_url))
    address = sender.reply_to()
    with kombu.Connection(rabbitmq_url) as connection:
        producer = connection.Producer()
        producer.publish("junk", routing_key=address, content_type="text/plain", content_encoding="utf-8")
        producer.publish({"a": 1}, routing_key=address, serializer="json")
        producer.publish(["x"], routing_key=address, serializer="pickle")
    worker.store(meta("1", "good", reply_to=address))
    assert sender.wait("1", 10).result == "good"
    assert caplog.text.count("queue for results is none") == 3


def test_the_worker_reads_results_of_what_its_tasks_send(rabbitmq_url: str, tmp_path: Path, make_app: MakeApp) -> None:
    files = {
        "nested.py": """
from greenworker import App
app = App("nested")

@app.task(name="inner")
def inner(x):
    return x * 2

@app.task(name="outer")
def outer(x):
    return inner.delay(x).get(timeout=10) + 1
"""
    }
    ini = {"broker": {"url": rabbitmq_url}, "results": {"url": "rpc://"}}
    app = make_app(rabbitmq_url)
    with Worker(tmp_path, app="nested:app", ini=ini, files=files):
        begun = time.monotonic()
        assert app.send_task("outer", [4]).get(timeout=20) == 9
        assert time.monotonic() - begun < 10


def test_rpc_needs_a_broker_that_others_can_send_over(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app(f"sqlite:///{tmp_path}/broker.db")
    with pytest.raises(SettingsError, match="rpc:// needs RabbitMQ or Redis"):
        _ = app.results
    with pytest.raises(SettingsError, match="rpc"):
        make_results("rpc://")
