"""before_task_publish and after_task_publish: what receivers see, and that what they change is what is sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from greenworker import App
from greenworker.app.told_publisher import ToldPublisher
from greenworker.broker.publisher import Outgoing, Replacement
from greenworker.errors import PublishError
from greenworker.protocol.dead_letter import dead_letter
from greenworker.protocol.message import decode_task, encode_task
from greenworker.settings import Settings
from greenworker.signals import after_task_publish, before_task_publish
from tests.support.execution import RecordingPublisher, RecordingSource, make_delivery, make_request
from tests.support.recording import NOW


class Listener:
    """Notes what it is told, and changes what ``change`` changes."""

    def __init__(self, change: Any = None) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._change = change
        before_task_publish.connect(self.before)
        after_task_publish.connect(self.after)

    def before(self, sender: str, signal: Any, **arguments: Any) -> None:
        self.told.append((sender, arguments))
        if self._change is not None:
            self._change(arguments)

    def after(self, sender: str, signal: Any, **arguments: Any) -> None:
        self.told.append((sender, arguments))


@pytest.fixture
def broker() -> RecordingPublisher:
    return RecordingPublisher()


@pytest.fixture
def app(broker: RecordingPublisher) -> Iterator[App]:
    with App("shop", settings=Settings()) as app:
        app.use_publisher(ToldPublisher(broker))

        @app.task(name="shop.add")
        def add(*args: Any, **kwargs: Any) -> None: ...

        yield app


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"serializer": "msgpack"}, {"serializer": "yaml"}])
def test_what_a_receiver_changes_is_sent(app: App, broker: RecordingPublisher, options: dict[str, Any]) -> None:
    """Headers (how tracing travels), properties, args and kwargs, whatever wrote them."""

    def change(arguments: dict[str, Any]) -> None:
        args, kwargs, _ = arguments["body"]
        args[0] = 10
        kwargs["y"] = 20
        arguments["headers"]["trace"] = "abc"
        arguments["properties"]["priority"] = 7

    listener = Listener(change)
    result = app.send_task("shop.add", [1], {"x": 2}, **options)
    [outgoing] = broker.sent
    message = decode_task(outgoing.envelope, ["json", "msgpack", "yaml"])
    assert (message.id, message.args, message.kwargs) == (result.id, [10], {"x": 2, "y": 20})
    assert message.headers["trace"] == "abc"
    assert message.priority == 7
    [(sender, _), (_, after)] = listener.told
    assert sender == "shop.add"
    assert after["body"][0] == [10]
    assert after["headers"]["trace"] == "abc"


def test_nothing_is_changed_where_nobody_changes_anything(app: App, broker: RecordingPublisher) -> None:
    options = {"task_id": "id-1", "priority": 3}
    app.send_task("shop.add", [1], **options)
    listener = Listener()
    app.send_task("shop.add", [1], **options)
    assert broker.sent[0] == broker.sent[1]
    assert listener.told[0][1]["declare"] == [broker.sent[0].queue]
    assert (listener.told[0][1]["exchange"], listener.told[0][1]["routing_key"]) == ("", "celery")


def test_after_is_told_of_what_was_confirmed_alone(app: App, broker: RecordingPublisher) -> None:
    listener = Listener()
    broker.errors.append(PublishError("away"))
    with pytest.raises(PublishError):
        app.send_task("shop.add")
    assert [set(arguments) for _, arguments in listener.told] == [
        {"body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"}
    ]


def test_the_caller_learns_which_of_its_messages_were_not_sent(app: App, broker: RecordingPublisher) -> None:
    """Not which of the copies that went on."""
    own = [app.prepare("shop.add", [number], None, {})[1] for number in range(3)]
    keep = Listener(lambda arguments: arguments["headers"].update(trace="abc"))

    def publish(messages: Any, timeout: float | None = None) -> None:
        error = PublishError("away")
        error.unpublished = messages[1:]
        raise error

    broker.publish = publish  # type: ignore[method-assign]
    with pytest.raises(PublishError) as caught:
        app.publisher.publish(own)
    assert keep.told
    assert caught.value.unpublished is not None
    assert [id(each) for each in caught.value.unpublished] == [id(each) for each in own[1:]]


def test_what_is_moved_and_not_sent_is_not_told(app: App, broker: RecordingPublisher) -> None:
    """A retry is; a dead letter and a task that is parked for its ETA are not."""
    listener = Listener()
    request = make_request(app=app, task="shop.add")
    delivery = request.delivery
    envelope = delivery.envelope
    letter = dead_letter(envelope, queue="celery", reason="no", kind="rejected", at=NOW)
    retried = encode_task(request.message)
    app.publisher.replace(
        [
            Replacement(delivery, Outgoing(envelope, "celery", delay=5.0)),
            Replacement(make_delivery(envelope, RecordingSource()), Outgoing(letter, "celery.dead")),
            Replacement(make_delivery(envelope, RecordingSource()), Outgoing(retried, "celery")),
        ]
    )
    assert len(broker.sent) == 3
    assert [arguments["routing_key"] for _, arguments in listener.told] == ["celery", "celery"]
    assert ["declare" in arguments for _, arguments in listener.told] == [True, False]
