"""Many tasks in one confirm."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from greenworker import App, BulkError
from greenworker.app.bulk import CHUNK
from greenworker.broker.publisher import Outgoing
from greenworker.errors import PublishError
from tests.support.recording import Project, RecordingPublisher


class FailingPublisher(RecordingPublisher):
    """Counts its rounds; in round ``bad`` confirms the first two messages alone, or tells nothing of what it did."""

    def __init__(self, bad: int = -1, known: bool = True) -> None:
        super().__init__()
        self.rounds: list[int] = []
        self._bad, self._known = bad, known

    def publish(self, messages: Sequence[Outgoing], timeout: float | None = None) -> None:
        self.rounds.append(len(messages))
        if len(self.rounds) - 1 != self._bad:
            super().publish(messages, timeout)
            return
        error = PublishError("not published: away")
        if self._known:
            super().publish(messages[:2], timeout)
            error.unpublished = messages[2:]
        raise error


def define(app: App) -> Any:
    @app.task(name="shop.add", priority=2)
    def add(x: int, y: int = 0) -> int:
        return x + y

    return add


def test_calls_of_every_kind(project: Project) -> None:
    add = define(project.app)
    calls = [
        add.s(1),
        dict(add.s(2).set(queue="q")),
        (add,),
        (add, (3,)),
        ["other.task", [4], {"y": 5}, {"countdown": 5, "link": add.s()}],
    ]
    results = project.app.bulk(calls)
    messages = project.publisher.messages
    assert [message.id for message in messages] == [result.id for result in results]
    assert [(message.task, message.args) for message in messages] == [
        ("shop.add", [1]),
        ("shop.add", [2]),
        ("shop.add", []),
        ("shop.add", [3]),
        ("other.task", [4]),
    ]
    assert [message.priority for message in messages] == [2, 2, 2, 2, 0]
    assert [outgoing.routing_key for outgoing in project.publisher.sent] == [
        "celery",
        "q",
        "celery",
        "celery",
        "celery",
    ]
    assert messages[4].eta is not None
    assert messages[4].callbacks is not None


def test_a_task_sends_itself_with_each(project: Project) -> None:
    results = define(project.app).bulk(([number] for number in range(3)), queue="q")
    assert [message.args for message in project.publisher.messages] == [[0], [1], [2]]
    assert {outgoing.routing_key for outgoing in project.publisher.sent} == {"q"}
    assert len({result.id for result in results}) == 3


def test_a_chunk_is_one_round_and_all_that_is_in_memory(app: App) -> None:
    add, publisher = define(app), FailingPublisher()
    app.use_publisher(publisher)
    taken = 0

    def calls() -> Iterator[Any]:
        nonlocal taken
        for number in range(2 * CHUNK + 1):
            assert taken - len(publisher.sent) < CHUNK, "more than a chunk is held"
            taken += 1
            yield add.s(number)

    assert len(app.bulk(calls())) == 2 * CHUNK + 1
    assert publisher.rounds == [CHUNK, CHUNK, 1]
    assert app.bulk([]) == []


@pytest.mark.parametrize("known", [True, False])
def test_the_error_names_what_is_not_published(app: App, known: bool) -> None:
    add, publisher = define(app), FailingPublisher(bad=1, known=known)
    app.use_publisher(publisher)
    endless = (add.s(number) for number in itertools.count())
    with pytest.raises(BulkError, match=r"tasks sent, then not shop\.add\[.*\] and 49\d more: not published") as caught:
        app.bulk(endless)
    error = caught.value
    first = 2 if known else 0
    assert len(error.sent) == CHUNK + first
    assert [each.args for each in error.unsent] == [(number,) for number in range(CHUNK + first, 2 * CHUNK)]
    assert isinstance(error, PublishError)
    before = [message.id for message in publisher.messages]
    again = app.bulk(error.unsent)
    assert [result.id for result in again] == [each.options["task_id"] for each in error.unsent]
    assert not {result.id for result in again} & set(before)


@pytest.mark.parametrize("call", [3, (), (1, 2, 3, 4, 5), (None, [1]), "shop.add"])
def test_what_is_no_call(app: App, call: Any) -> None:
    with pytest.raises(TypeError, match="bulk: expected"):
        app.bulk([call])
