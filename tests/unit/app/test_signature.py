"""Signatures: Celery's own, field by field; and what is refused before it can be sent."""

from __future__ import annotations

import copy
import json
import pickle
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import celery
import pytest

import greenworker
from greenworker import App, Signature
from greenworker.app import shared_tasks
from greenworker.app.signature import MalformedSignatureError, on_the_wire
from greenworker.errors import AppError, NotRegistered
from tests.support.recording import Project, RecordingPublisher


@pytest.fixture
def client() -> Iterator[celery.Celery]:
    client = celery.Celery("shop", broker="memory://", set_as_current=False)
    client.conf.task_default_queue = f"queue-{uuid.uuid4()}"
    define(client, shared=False)
    yield client
    client.close()


def define(app: Any, **options: Any) -> None:
    @app.task(**options, name="signed.add")  # type: ignore[untyped-decorator]
    def add(x: int, y: int = 0) -> int:
        return x + y


BUILDS: dict[str, Callable[[Any], Any]] = {
    "s": lambda task: task.s(1, y=2),
    "si": lambda task: task.si(1),
    "signature": lambda task: task.signature((1,), {"y": 2}, countdown=5, queue="q"),
    "set": lambda task: task.s(1).set(priority=3, countdown=1).set(immutable=True),
    "clone": lambda task: task.s(2, y=1).clone((1,), {"y": 3}, queue="q"),
    "clone of an immutable one": lambda task: task.si(2).clone((1,), {"y": 3}, queue="q"),
    "link": lambda task: linked(task, "link", task.s(1)),
    "link_error": lambda task: linked(task, "link_error", task.si(1)),
    "the same link twice": lambda task: linked(task, "link", task.s(1), task.s(1), task.s(2)),
    "on_error": lambda task: task.s(1).on_error(task.s(2)),
}


def linked(task: Any, how: str, *links: Any) -> Any:
    signature = task.s(0)
    for link in links:
        assert getattr(signature, how)(link) is link
    return signature


@pytest.mark.parametrize("name", BUILDS)
def test_a_signature_is_celerys_in_each_key(app: App, client: celery.Celery, name: str) -> None:
    define(app)
    ours, theirs = BUILDS[name](app.tasks["signed.add"]), BUILDS[name](client.tasks["signed.add"])
    assert ours == dict(theirs)
    assert list(ours) == list(theirs)


def test_celery_runs_ours(app: App, client: celery.Celery) -> None:
    define(app)
    assert celery.signature(dict(app.tasks["signed.add"].s(y=2)), app=client)(1) == 3


def test_arguments_come_before_its_own_unless_it_is_immutable(app: App, publisher: RecordingPublisher) -> None:
    define(app)
    add = app.tasks["signed.add"]
    add.s(7).set(priority=4).apply_async((5,), queue="q", priority=None)
    assert (publisher.last.args, publisher.last.kwargs) == ([5, 7], {})
    assert (publisher.last.priority, publisher.sent[-1].routing_key) == (4, "q")
    add.si(3).delay(5, y=8)
    assert (publisher.last.args, publisher.last.kwargs) == ([3], {})


def test_a_task_that_is_not_here_can_be_sent_and_not_run(app: App, publisher: RecordingPublisher) -> None:
    signature = app.signature("other.task", (1,), {"a": 2}, queue="others")
    result = signature.delay()
    assert (publisher.last.task, publisher.last.id, publisher.last.args) == ("other.task", result.id, [1])
    with pytest.raises(NotRegistered, match=r"other\.task"):
        signature.apply()


def test_links_go_out_as_plain_dicts(app: App, publisher: RecordingPublisher) -> None:
    define(app)
    add = app.tasks["signed.add"]
    inner = add.s(1)
    outer = add.s(2)
    outer.link(inner)
    add.apply_async((0,), link=outer, link_error=[add.si(8), add.si(9)], serializer="yaml")
    assert publisher.last.callbacks == [
        {**dict(outer), "args": [2], "options": {"link": [{**dict(inner), "args": [1]}]}},
    ]
    assert [errback["args"] for errback in publisher.last.errbacks or ()] == [[8], [9]]


@pytest.mark.parametrize(
    ("link", "what"),
    [
        ("signed.add", "expected a signature"),
        ([None], "expected a signature"),
        ([{"args": []}], "expected a name"),
        ({"task": "signed.add", "args": "text"}, "args must be a list"),
        ({"task": "signed.add", "kwargs": [1]}, "kwargs must be a mapping"),
        ({"task": "signed.add", "options": {"link": 3}}, "expected a signature"),
    ],
)
def test_what_is_no_signature_is_refused_where_it_is_sent(app: App, link: Any, what: str) -> None:
    define(app)
    with pytest.raises(MalformedSignatureError, match=what):
        app.tasks["signed.add"].apply_async((1,), link=link)


def test_bars_do_not_merge_dicts_in_silence(app: App) -> None:
    define(app)
    add = app.tasks["signed.add"]
    with pytest.raises(TypeError, match=r"chains .* are not here"):
        add.s(1) | add.s(2)
    with pytest.raises(TypeError, match=r"chains .* are not here"):
        dict(add.s(1)) | add.s(2)


def test_a_clones_links_are_its_own(app: App) -> None:
    define(app)
    add = app.tasks["signed.add"]
    first = add.s(1)
    first.link(add.s(2))
    second = first.clone()
    second.link(add.s(3))
    assert len(first.options["link"]) == 1
    assert len(second.options["link"]) == 2


def test_copies_and_pickles(app: App) -> None:
    define(app)
    signature = app.tasks["signed.add"].s(1)
    assert copy.deepcopy(signature) == signature
    assert copy.deepcopy(signature).type is app.tasks["signed.add"]
    thawed = pickle.loads(pickle.dumps(signature))
    assert (thawed, type(thawed)) == (signature, Signature)


def test_one_of_a_name_alone_is_sent_through_the_current_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_tasks, "_PROCESS", shared_tasks.Process())
    named = greenworker.signature("signed.add", args=(2, 2), countdown=10)
    with pytest.raises(AppError, match="there is none yet"):
        named.delay()
    current, other = Project(), Project(set_as_current=False)
    named.delay()
    assert current.publisher.last.args == [2, 2]
    greenworker.signature(other.app.signature("signed.add", (3,))).delay()  # that has an App, and keeps it
    assert other.publisher.last.args == [3]


def test_frozen_is_sent_under_its_id(app: App, publisher: RecordingPublisher) -> None:
    signature = app.signature("other.task")
    result = signature.freeze()
    assert signature.freeze().id == result.id
    assert signature.delay().id == result.id == publisher.last.id


def test_links_on_the_wire_are_celerys(app: App, publisher: RecordingPublisher, client: celery.Celery) -> None:
    define(app)
    for each in (app, client):
        add = each.tasks["signed.add"]
        outer = add.signature((2,), {"y": 3}, queue="q", priority=4)
        outer.link(add.si(1))
        add.apply_async((0,), link=[outer, add.s()], link_error=add.s(9).on_error(add.s(8)))
    with client.connection_for_read() as connection, connection.channel() as channel:
        theirs = client.amqp.queues[client.conf.task_default_queue](channel).get(no_ack=True)
    assert theirs is not None
    body = publisher.sent[-1].envelope.body
    assert json.loads(body)[2] == json.loads(theirs.body)[2]


def test_no_links_cost_nothing_on_the_wire() -> None:
    assert on_the_wire(None) is None
