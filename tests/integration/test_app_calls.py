"""Apps and the command line against real brokers and a real worker: tasks called, results read, queues purged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import kombu
import pytest

from greenworker import App, MaxRetriesExceededError
from greenworker.settings.load import load_settings
from tests.support.worker import Worker, environment, run

SHOP = """
from greenworker import App, Task

app = App("shop")


@app.task(name="shop.add")
def add(x, y, z=0):
    return x + y + z


@app.task(name="shop.fail")
def fail(text):
    raise ValueError(text)


@app.task(name="shop.flaky", bind=True, default_retry_delay=0, max_retries=2)
def flaky(self: Task, failures):
    if self.request.retries < failures:
        raise self.retry()
    return self.request.retries


@app.task(name="shop.auto", autoretry_for=(KeyError,), retry_kwargs={"countdown": 0}, max_retries=1)
def auto():
    raise KeyError("always")


@app.task(name="shop.soft", bind=True, default_retry_delay=0)
def soft(self: Task):
    if self.request.retries == 0:
        self.retry(throw=False)
        return "sent the next try"
    return "next try"


@app.task(name="shop.parent", bind=True)
def parent(self: Task):
    return [self.request.id, add.delay(1, 1).id]


@app.task(name="shop.lineage", bind=True)
def lineage(self: Task):
    return [self.request.root_id, self.request.parent_id, self.request.called_directly, self.request.delivery_info]


@app.task(name="shop.outer")
def outer():
    return lineage.delay().id


@app.task(name="shop.progress", bind=True)
def progress(self: Task):
    self.update_state(state="PROGRESS", meta={"done": 1})
    return app.AsyncResult(self.request.id).id == self.request.id
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker on its embedded broker, for all tests of this file."""
    folder = tmp_path_factory.mktemp("shop")
    with Worker(folder, app="shop:app", files={"shop.py": SHOP}) as worker:
        yield worker


@pytest.fixture
def app(worker: Worker) -> Iterator[App]:
    """A producer with the worker's settings and none of its code."""
    environ = environment(worker.folder, {})
    with App("producer", settings=load_settings(environ=environ)) as app:
        yield app


def test_result_comes_back(app: App) -> None:
    assert app.send_task("shop.add", (2, 2), {"z": 1}).get(timeout=20) == 5


def test_error_comes_back(app: App) -> None:
    result = app.send_task("shop.fail", ("no stock",))
    with pytest.raises(ValueError, match="no stock"):
        result.get(timeout=20)
    assert result.failed() and "no stock" in (result.traceback or "")


def test_retries_end_in_success_or_in_the_reason(app: App) -> None:
    assert app.send_task("shop.flaky", (2,)).get(timeout=20) == 2
    with pytest.raises(MaxRetriesExceededError):
        app.send_task("shop.flaky", (3,)).get(timeout=20)
    with pytest.raises(KeyError, match="always"):
        app.send_task("shop.auto").get(timeout=20)


def test_retry_that_is_not_raised_is_sent_all_the_same(app: App, worker: Worker) -> None:
    result = app.send_task("shop.soft")
    assert result.get(timeout=20) in {"sent the next try", "next try"}
    worker.wait_for_line(rf"{result.id}.*(done|succeeded)", count=2)


def test_task_sends_another_under_itself(app: App) -> None:
    outer = app.send_task("shop.outer")
    inner = app.AsyncResult(outer.get(timeout=20))
    root, parent, called_directly, delivery_info = inner.get(timeout=20)
    assert (root, parent, called_directly) == (outer.id, outer.id, False)
    assert delivery_info["routing_key"] == "celery" and delivery_info["redelivered"] is False


def test_state_of_the_users_own(app: App) -> None:
    assert app.send_task("shop.progress").get(timeout=20) is True


def test_forget(app: App) -> None:
    result = app.send_task("shop.add", (1, 1))
    assert result.get(timeout=20) == 2
    result.forget()
    assert result.state == "PENDING"


def test_call_prints_the_result(worker: Worker) -> None:
    done = run(worker.folder, "call", "shop.add", "2", "2", "--kwargs", '{"z": 1}', "--wait", "--timeout", "20s")
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")
    done = run(worker.folder, "call", "-A", "shop:app", "shop.add", '"a"', '"b"', '"c"', "--wait", "--timeout", "20s")
    assert (done.returncode, json.loads(done.stdout)) == (0, "abc")


def test_call_tells_of_a_failure(worker: Worker) -> None:
    done = run(worker.folder, "call", "shop.fail", "no stock", "--wait", "--timeout", "20s")
    assert (done.returncode, done.stdout) == (1, "")
    assert "FAILURE: ValueError: no stock" in done.stderr and "raise ValueError(text)" in done.stderr


def test_call_gives_up_waiting(worker: Worker) -> None:
    done = run(worker.folder, "call", "shop.add", "1", "1", "--queue", "nobody", "--wait", "--timeout", "100ms")
    assert done.returncode == 69 and "there is no result after 100ms" in done.stderr


def test_purge_on_rabbitmq(rabbitmq_url: str, tmp_path: Path) -> None:
    with App("shop", broker=rabbitmq_url, results="none", settings=None) as app:
        app.use_settings(load_settings(environ={"GREENWORKER_BROKER_URL": rabbitmq_url, "HOME": str(tmp_path)}))
        for number in range(5):
            app.send_task("shop.add", (number, 1), queue="sums")
    done = run(tmp_path, "purge", "-b", rabbitmq_url, "-Q", "sums,missing", "--force")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["missing: no such queue", "sums: 5 messages deleted"]
    with kombu.Connection(rabbitmq_url) as connection:
        assert connection.default_channel.queue_declare("sums", passive=True).message_count == 0
    assert run(tmp_path, "purge", "-b", "amqp://127.0.0.1:1//", "--force").returncode == 69


def test_call_on_rabbitmq(rabbitmq_url: str, tmp_path: Path) -> None:
    done = run(tmp_path, "call", "-b", rabbitmq_url, "shop.add", "2", "2")
    assert done.returncode == 0, done.stderr
    with kombu.Connection(rabbitmq_url) as connection:
        message = connection.default_channel.basic_get("celery", no_ack=True)
        assert message.headers["id"] == done.stdout.strip()


def test_wrong_password_on_rabbitmq(rabbitmq_url: str, tmp_path: Path) -> None:
    scheme, _, rest = rabbitmq_url.partition("://")
    wrong = f"{scheme}://nobody:secret@{rest.rpartition('@')[2]}"
    done = run(tmp_path, "call", "-b", wrong, "shop.add", "--broker-publish-timeout", "2s")
    assert done.returncode == 69 and "secret" not in done.stderr
    assert "login refused" in done.stderr
