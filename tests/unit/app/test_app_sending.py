"""What ``delay``, ``apply_async`` and ``send_task`` put on the broker; compared with a real Celery client's."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import celery
import pytest

from greenworker import App
from greenworker.app.context import CURRENT, TaskContext
from greenworker.errors import EncodeError
from greenworker.protocol.message import Envelope, TaskMessage, decode_task
from greenworker.settings.model import QueueSettings, Settings, TaskSettings
from tests.support.recording import NOW, Project, RecordingPublisher


@pytest.fixture
def client() -> Iterator[celery.Celery]:
    client = celery.Celery("shop", broker="memory://", set_as_current=False)
    client.conf.task_default_queue = f"queue-{uuid.uuid4()}"
    yield client
    client.close()


def taken(client: celery.Celery) -> tuple[TaskMessage, dict[str, Any]]:
    """The client's latest message as a worker decodes it, and its raw headers."""
    with client.connection_for_read() as connection, connection.channel() as channel:
        message = client.amqp.queues[client.conf.task_default_queue](channel).get(no_ack=True)
        envelope = Envelope(
            message.body, message.content_type, message.content_encoding, dict(message.headers), message.properties
        )
        return decode_task(envelope, ["json"]), dict(message.headers)


def add(x: int, y: int = 0) -> int:
    return x + y


CALLS: list[dict[str, Any]] = [
    {"args": (2, 2)},
    {"args": [2], "kwargs": {"y": 3}},
    {"args": (2,), "retries": 2, "priority": 4},
    {"args": (2,), "time_limit": 30, "soft_time_limit": 20},
    {"args": (2,), "headers": {"tenant": "north"}},
    {"args": (2,), "ignore_result": True},
    {"args": (2,), "root_id": "r", "parent_id": "p"},
    {"args": (2,), "group_id": "g", "group_index": 4, "shadow": "shop.other"},
    {"args": (2,), "eta": datetime(2031, 1, 1, tzinfo=UTC), "expires": datetime(2031, 1, 2, tzinfo=UTC)},
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("options", [{}, {"time_limit": 8, "soft_time_limit": 7, "priority": 3, "ignore_result": True}])
def test_messages_are_celerys(
    app: App, publisher: RecordingPublisher, client: celery.Celery, call: dict[str, Any], options: dict[str, Any]
) -> None:
    task_id = str(uuid.uuid4())
    client.task(add, name="shop.add", lazy=False, shared=False, **options).apply_async(task_id=task_id, **call)
    app.task(add, name="shop.add", **options).apply_async(task_id=task_id, **call)
    theirs, their_headers = taken(client)
    ours = publisher.last
    changing = {"reply_to": "", "origin": ""}
    assert dataclasses.replace(ours, **changing) == dataclasses.replace(theirs, **changing)
    assert ours.reply_to and ours.origin == theirs.origin
    assert set(publisher.sent[-1].envelope.headers) == set(their_headers)


def test_delay_and_names(app: App, publisher: RecordingPublisher) -> None:
    result = app.task(add, name="shop.add").delay(1, y=2)
    message = publisher.last
    assert (message.task, message.args, message.kwargs) == ("shop.add", [1], {"y": 2})
    assert result.id == message.id == message.root_id == message.correlation_id
    assert message.parent_id is None


def test_ids_are_new_each_time_and_replies_go_to_one_place(app: App, publisher: RecordingPublisher) -> None:
    task = app.task(add, name="shop.add")
    task.delay(1)
    task.delay(1)
    first, second = publisher.messages
    assert first.id != second.id and first.reply_to == second.reply_to


@pytest.mark.parametrize(
    ("options", "eta", "expires"),
    [
        ({"countdown": 10}, NOW + timedelta(seconds=10), None),
        ({"countdown": 0}, None, None),
        ({"expires": 0.5}, None, NOW + timedelta(seconds=0.5)),
        ({"eta": datetime(2031, 1, 1)}, datetime(2031, 1, 1, tzinfo=UTC), None),
        ({"eta": datetime(2031, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))}, datetime(2031, 1, 1, tzinfo=UTC), None),
        ({"eta": "2031-01-01T00:00:00+00:00"}, datetime(2031, 1, 1, tzinfo=UTC), None),
    ],
)
def test_times(app: App, publisher: RecordingPublisher, options: Any, eta: Any, expires: Any) -> None:
    app.send_task("shop.add", (1,), **options)
    assert (publisher.last.eta, publisher.last.expires) == (eta, expires)


def test_the_broker_keeps_what_is_due_much_later(app: App, publisher: RecordingPublisher) -> None:
    app.send_task("shop.add", countdown=1e6)
    assert publisher.sent[-1].delay == 1e6
    app.send_task("shop.add", countdown=5)
    assert publisher.sent[-1].delay == 0
    app.send_task("shop.add", countdown=1e6, exchange="news", routing_key="x")
    assert publisher.sent[-1].delay == 0, "only a queue's name says where a parked message goes"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ({"args": "ab"}, TypeError, "args must be a list or tuple, got str"),
        ({"args": {"x": 1}}, TypeError, "args must be a list or tuple, got dict"),
        ({"kwargs": [1]}, TypeError, "kwargs must be a mapping, got list"),
        ({"countdonw": 1}, TypeError, "did you mean 'countdown'?"),
        ({"eta": "tomorrow"}, ValueError, "expected an ISO 8601 date and time, got 'tomorrow'"),
        ({"countdown": 1e300}, ValueError, "out of range"),
        ({"time_limit": 1, "soft_time_limit": 2}, ValueError, "at most time_limit"),
        ({"task_id": "x" * 256}, ValueError, "task_id: expected at most 255 bytes, got 256"),
        ({"retries": -1}, ValueError, "retries: expected a whole number from 0 up, got -1"),
        ({"priority": 256}, ValueError, "task shop.add, priority: expected a whole number from 0 to 255, got 256"),
        ({"priority": -1}, ValueError, "from 0 to 255, got -1"),
        ({"priority": "5"}, ValueError, "from 0 to 255, got '5'"),
        ({"priority": True}, ValueError, "from 0 to 255, got True"),
        ({"args": [object()]}, EncodeError, "json"),
        ({"serializer": "bogus"}, EncodeError, "bogus"),
    ],
)
def test_what_cannot_be_sent_is_told_and_not_sent(
    app: App, publisher: RecordingPublisher, call: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        app.send_task("shop.add", **call)
    assert words in str(caught.value)
    assert publisher.sent == []


def test_arguments_are_checked_against_the_function_as_celery_does(app: App, client: celery.Celery) -> None:
    ours = app.task(add, name="shop.add")
    theirs = client.task(add, name="shop.add", lazy=False, shared=False)
    for task in (ours, theirs):
        with pytest.raises(TypeError):
            task.delay()
        with pytest.raises(TypeError):
            task.delay(1, z=3)
    unchecked = app.task(add, name="shop.unchecked", typing=False)
    assert unchecked.delay().id


def test_children_of_a_running_task_carry_its_root_and_parent(app: App, publisher: RecordingPublisher) -> None:
    task = app.task(add, name="shop.add")
    CURRENT.set(TaskContext(id="parent", task="other", root_id="root"))
    try:
        task.delay(1)
        assert (publisher.last.root_id, publisher.last.parent_id) == ("root", "parent")
    finally:
        CURRENT.set(None)
    task.delay(1)
    assert publisher.last.root_id == publisher.last.id


def test_a_task_called_directly_by_a_running_one_sends_under_the_running_one(
    app: App, publisher: RecordingPublisher
) -> None:
    task = app.task(add, name="shop.add")

    @app.task(name="shop.outer")
    def outer() -> None:
        task.delay(1)

    CURRENT.set(TaskContext(id="parent", task="other"))
    try:
        outer()
    finally:
        CURRENT.set(None)
    assert (publisher.last.root_id, publisher.last.parent_id) == ("parent", "parent")


def test_task_options_count_for_send_task_too_and_the_call_counts_over_them(
    app: App, publisher: RecordingPublisher
) -> None:
    app.task(add, name="shop.add", queue="sums", time_limit=9, compression="gzip", serializer="yaml")
    app.send_task("shop.add", (1,))
    outgoing, message = publisher.sent[-1], publisher.last
    assert (outgoing.routing_key, message.time_limit, message.content_type) == ("sums", 9, "application/x-yaml")
    assert outgoing.envelope.headers["compression"] == "application/x-gzip"
    app.send_task("shop.add", (1,), queue="other", time_limit=None, serializer="json")
    outgoing, message = publisher.sent[-1], publisher.last
    assert (outgoing.routing_key, message.time_limit, message.content_type) == ("other", None, "application/json")


def test_ways_to_a_queue() -> None:
    queues = {
        "mail": QueueSettings(exchange="letters", exchange_type="topic", routing_key="letters.out", max_priority=9),
        "big": QueueSettings(type="quorum"),
    }
    project = Project(queues=queues, task=TaskSettings(default_queue="big"))
    app, sent = project.app, project.publisher.sent

    def way(**options: Any) -> tuple[str, str, str | None]:
        app.send_task("t", **options)
        spec = sent[-1].queue
        return sent[-1].exchange, sent[-1].routing_key, spec.name if spec else None

    assert way() == ("", "big", "big")
    assert way(queue="mail") == ("letters", "letters.out", "mail")
    assert way(queue="new") == ("", "new", "new")
    assert way(routing_key="new") == ("", "new", "new")
    assert way(exchange="news", routing_key="sport") == ("news", "sport", None)
    assert app.queue_spec("big").type == "quorum"
    assert app.queue_spec("mail").max_priority == 9


def test_settings_of_the_app_are_loaded_at_first_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    file = tmp_path / "shop.ini"
    app = App("shop", config=file, broker="amqp://nowhere//")
    file.write_text("[task]\ndefault_queue = sums\n")
    assert app.settings.task.default_queue == "sums"
    file.write_text("[task]\ndefault_queue = late\n")
    assert app.settings.task.default_queue == "sums"


def test_close_lets_go_of_what_the_app_made_and_of_nothing_else(project: Project) -> None:
    project.app.close()
    assert project.publisher.closed == 0
    assert project.app.use_settings(Settings()) is project.app.settings
