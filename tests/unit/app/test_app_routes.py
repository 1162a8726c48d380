"""Where messages go: the call's word, the router's, ``[route PATTERN]``, the task's own, the default; in this order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from greenworker import App
from greenworker.app.routes import find_section
from greenworker.errors import AppError, Retry
from greenworker.settings.model import QueueSettings, RouteSettings, Settings
from tests.support.recording import RecordingPublisher


class Routed:
    """An app with routes; ``way`` sends a task of it and tells the queue and the priority that the message got."""

    def __init__(self, routes: Mapping[str, RouteSettings] | None = None, **app_options: Any) -> None:
        queues = {"topical": QueueSettings(exchange="news", exchange_type="topic", routing_key="news.#")}
        self.app = App("shop", settings=Settings(routes=routes or {}, queues=queues), **app_options)
        self.publisher = RecordingPublisher()
        self.app.use_publisher(self.publisher)

    def way(self, task: str = "shop.add", **options: Any) -> tuple[str, int | None]:
        """A message without a priority has 0, as Celery's have."""
        self.app.send_task(task, **options)
        return self.publisher.sent[-1].routing_key, self.publisher.last.priority


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("shop.add", "shop.add"),
        ("shop.add.more", "shop.add*"),
        ("shop.adds", "shop.add*"),
        ("shop.mail.send", "shop.*"),
        ("shop.x", "shop.?"),
        ("mail", "*"),
        ("Shop.mail", "*"),
    ],
)
def test_the_pattern_that_spells_out_the_most_counts(name: str, pattern: str) -> None:
    patterns = ("*", "shop.*", "shop.add*", "shop.?", "shop.add", "s*")
    for order in (patterns, patterns[::-1]):
        sections = {each: RouteSettings(queue=each) for each in order if not (each == "shop.*" and name == "shop.x")}
        found = find_section(sections, name)
        assert found is not None
        assert found.queue == pattern


def test_of_equal_patterns_the_first_counts() -> None:
    sections = {"a*": RouteSettings(queue="first"), "*b": RouteSettings(queue="second")}
    assert find_section(sections, "ab") is sections["a*"]
    assert find_section(dict(reversed(sections.items())), "ab") is sections["*b"]
    assert find_section(sections, "cd") is None


def test_what_counts_over_what() -> None:
    answers: list[Any] = []
    routed = Routed(
        {"shop.*": RouteSettings(queue="by-route", priority=2)}, router=lambda *call: answers.pop() if answers else None
    )

    @routed.app.task(name="shop.own", queue="by-task", priority=1)
    def own() -> None: ...

    @routed.app.task(name="other.own", queue="by-task", priority=1)
    def other() -> None: ...

    assert routed.way("other.unknown") == ("celery", 0)
    assert routed.way("other.own") == ("by-task", 1)
    assert routed.way("shop.own") == ("by-route", 2)
    assert routed.way("shop.unknown") == ("by-route", 2)
    answers[:] = ["by-router"]
    assert routed.way("shop.own") == ("by-router", 2)
    answers[:] = [{"queue": "by-router", "priority": 3}]
    assert routed.way("shop.own") == ("by-router", 3)
    answers[:] = [{"queue": "by-router", "priority": 3}]
    assert routed.way("shop.own", queue="by-call", priority=4) == ("by-call", 4)
    answers[:] = [{"priority": 3, "queue": None}]
    assert routed.way("shop.own") == ("by-route", 3)


def test_a_way_counts_as_a_whole() -> None:
    """The queue of a task or a route is no part of the exchange that somebody else names."""
    answers: list[Any] = []
    routed = Routed({"*": RouteSettings(queue="by-route")}, router=lambda *call: answers.pop() if answers else None)
    routed.app.send_task("shop.add", exchange="news", routing_key="news.local")
    assert (routed.publisher.sent[-1].exchange, routed.publisher.sent[-1].routing_key) == ("news", "news.local")
    answers[:] = [{"exchange": "news", "routing_key": "news.router"}]
    routed.app.send_task("shop.add")
    assert (routed.publisher.sent[-1].exchange, routed.publisher.sent[-1].routing_key) == ("news", "news.router")
    answers[:] = [{"exchange": "news", "routing_key": "news.router"}]
    routed.app.send_task("shop.add", queue="by-call")
    assert (routed.publisher.sent[-1].exchange, routed.publisher.sent[-1].routing_key) == ("", "by-call")
    answers[:] = ["topical"]
    routed.app.send_task("shop.add", routing_key="news.kept")
    assert (routed.publisher.sent[-1].exchange, routed.publisher.sent[-1].routing_key) == ("news", "news.kept")


def test_the_router_sees_the_call() -> None:
    calls: list[Any] = []

    def router(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **more: Any) -> None:
        calls.append((name, args, kwargs, dict(options)))

    routed = Routed(router=router)
    routed.way("shop.add", args=(1,), kwargs={"y": 2}, priority=5)
    routed.way("shop.none")
    assert calls == [("shop.add", (1,), {"y": 2}, {"priority": 5}), ("shop.none", (), {}, {})]


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (7, AppError, "expected a dict of options, the name of a queue or None; got 7"),
        (["mail"], AppError, "expected a dict of options, the name of a queue or None; got ['mail']"),
        ({"queu": "mail"}, TypeError, "unknown option 'queu'; did you mean 'queue'?"),
        ({"priority": 256}, ValueError, "priority"),
    ],
)
def test_a_router_that_answers_nonsense_is_told(answer: Any, error: type[Exception], text: str) -> None:
    routed = Routed(router=lambda *call: answer)
    with pytest.raises(error) as raised:
        routed.way()
    assert text in str(raised.value)
    assert "shop.add" in str(raised.value)
    assert routed.publisher.sent == []


def test_what_the_router_raises_comes_out() -> None:
    routed = Routed(router=lambda *call: 1 / 0)  # type: ignore[arg-type, return-value]
    with pytest.raises(ZeroDivisionError):
        routed.way()


def test_a_retry_keeps_its_queue() -> None:
    routed = Routed({"*": RouteSettings(queue="by-route", priority=2)}, router=lambda *call: "by-router")
    message = routed.app.message("shop.add", (), {}, {})
    assert routed.app.outgoing_retry(message, Retry(), "where-it-came-from").routing_key == "where-it-came-from"


def test_every_way_to_send_is_routed() -> None:
    routed = Routed({"shop.*": RouteSettings(queue="by-route")})

    @routed.app.task(name="shop.add")
    def add() -> None: ...

    add.delay()
    add.apply_async()
    add.s().delay()
    routed.app.bulk([add.s(), ("shop.add",)])
    assert [outgoing.routing_key for outgoing in routed.publisher.sent] == ["by-route"] * 5
