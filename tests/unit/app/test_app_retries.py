"""Retries: backoff, the next message, what ``retry`` raises; compared with Celery where it is cheap."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import celery
import celery.exceptions
import pytest
from celery.utils.time import get_exponential_backoff_interval
from hypothesis import given
from hypothesis import strategies as st

from greenworker import App, MaxRetriesExceededError, Reject, Retry, Task
from greenworker.app.context import CURRENT, TaskContext
from greenworker.app.retries import autoretry, backoff, inherited_arguments, retry_message, should_autoretry
from greenworker.errors import Ignore, StopTask
from greenworker.protocol.message import TaskMessage
from tests.support.recording import NOW, RecordingPublisher

MESSAGE = TaskMessage(
    id="1",
    task="t",
    args=[1, 2],
    kwargs={"z": 3},
    retries=1,
    eta=NOW,
    expires=NOW + timedelta(hours=1),
    time_limit=30.0,
    soft_time_limit=20.0,
    root_id="root",
    parent_id="parent",
    ignore_result=True,
    argsrepr="(1, 2)",
    kwargsrepr="{'z': 3}",
    headers={"tenant": "north"},
    priority=4,
)


@pytest.fixture(autouse=True)
def no_context_is_left() -> Any:
    token = CURRENT.set(None)
    yield
    CURRENT.reset(token)


def anything(*args: Any, **kwargs: Any) -> None: ...


def running(task: Task, **changes: Any) -> TaskContext:
    """Make a worker's run of ``task`` current."""
    message = replace(MESSAGE, task=task.name, **changes)
    context = TaskContext.of(message, hostname="me@here", queue="sums")
    CURRENT.set(context)
    return context


@given(st.integers(0, 70), st.integers(0, 1000), st.integers(0, 10**6))
def test_backoff_without_jitter_is_celerys(retries: int, factor: int, maximum: int) -> None:
    assert backoff(retries, factor, maximum, False, random.uniform) == get_exponential_backoff_interval(
        factor, retries, maximum
    )


@given(st.integers(0, 10**9), st.floats(0, 1e6), st.floats(0, 1e6), st.randoms())
def test_backoff_with_jitter_stays_within_the_interval(
    retries: int, factor: float, maximum: float, source: random.Random
) -> None:
    whole = backoff(retries, factor, maximum, False, source.uniform)
    assert 0 <= backoff(retries, factor, maximum, True, source.uniform) <= whole <= maximum


def test_jitter_spreads_over_the_whole_interval() -> None:
    drawn = []
    backoff(3, 1, 600, True, lambda low, high: drawn.append((low, high)) or low)  # type: ignore[func-returns-value]
    assert drawn == [(0.0, 8.0)]


def test_next_message_keeps_all_that_the_retry_does_not_change() -> None:
    message, delay = retry_message(MESSAGE, Retry(when=10), NOW)
    assert delay == 10
    assert message == replace(MESSAGE, retries=2, eta=NOW + timedelta(seconds=10))
    assert MESSAGE.retries == 1


@pytest.mark.parametrize(
    ("when", "eta", "delay"),
    [
        (None, None, 0.0),
        (0, NOW, 0.0),
        (2.5, NOW + timedelta(seconds=2.5), 2.5),
        (datetime(2030, 1, 2, 3, 4, 15), NOW + timedelta(seconds=10), 10.0),
        (datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC), 0.0),
    ],
)
def test_when_the_next_try_is_due(when: Any, eta: datetime | None, delay: float) -> None:
    message, seconds = retry_message(MESSAGE, Retry(when=when), NOW)
    assert (message.eta, seconds) == (eta, delay)


def test_next_message_takes_what_the_retry_gives() -> None:
    given_options = {
        "args": (9,),
        "kwargs": {},
        "expires": 60,
        "time_limit": None,
        "soft_time_limit": 5,
        "priority": 7,
        "headers": {"more": 1},
        "ignore_result": False,
    }
    message, _ = retry_message(MESSAGE, Retry(signature=given_options), NOW)
    assert message == replace(
        MESSAGE,
        retries=2,
        eta=None,
        args=(9,),
        kwargs={},
        argsrepr=None,
        kwargsrepr=None,
        expires=NOW + timedelta(seconds=60),
        time_limit=None,
        soft_time_limit=5,
        priority=7,
        headers={"tenant": "north", "more": 1},
        ignore_result=False,
    )


def test_retry_raises_what_the_worker_needs(app: App) -> None:
    task = app.task(anything, name="t", default_retry_delay=7)
    context = running(task)
    with pytest.raises(Retry) as caught:
        task.retry()
    assert caught.value.when == 7 and caught.value.exc is None and not caught.value.sent
    message, delay = retry_message(context.message, caught.value, NOW)  # type: ignore[arg-type]
    assert delay == 7 and message.args == [1, 2] and message.kwargs == {"z": 3} and message.argsrepr == "(1, 2)"
    with pytest.raises(Retry) as caught:
        task.retry(countdown=0, exc=KeyError("k"), queue="slow")
    assert caught.value.when == 0 and isinstance(caught.value.exc, KeyError)
    assert app.outgoing_retry(message, caught.value, "sums").routing_key == "slow"
    eta = NOW + timedelta(days=1)
    with pytest.raises(Retry) as caught:
        task.retry(eta=eta)
    assert caught.value.when == eta


def test_retry_goes_straight_back_to_its_queue_in_the_serializer_it_came_in(app: App) -> None:
    message = replace(MESSAGE, content_type="application/x-yaml")
    outgoing = app.outgoing_retry(message, Retry(), "sums")
    assert (outgoing.exchange, outgoing.routing_key) == ("", "sums")
    assert outgoing.queue is not None and outgoing.queue.name == "sums"
    assert outgoing.envelope.content_type == "application/x-yaml"
    assert app.outgoing_retry(MESSAGE, Retry(), "sums").envelope.content_type == "application/json"


def test_used_up_retries_raise_the_reason_or_celerys_error(app: App) -> None:
    task = app.task(anything, name="t", max_retries=1)
    running(task, retries=1)
    with pytest.raises(MaxRetriesExceededError, match=r"Can't retry t\[1\] args:\[1, 2\] kwargs:{'z': 3}"):
        task.retry()
    with pytest.raises(task.MaxRetriesExceededError):
        task.retry()
    with pytest.raises(KeyError):
        task.retry(exc=KeyError("k"))
    with pytest.raises(Retry):
        task.retry(max_retries=2)
    with pytest.raises(MaxRetriesExceededError):
        task.retry(max_retries=0)


def test_max_retries_none_never_ends(app: App) -> None:
    task = app.task(anything, name="t", max_retries=None)
    running(task, retries=10**6)
    with pytest.raises(Retry):
        task.retry()


@pytest.mark.parametrize("retries", [0, 1, 2, 3])
@pytest.mark.parametrize("max_retries", [0, 1, 2, None])
def test_limit_is_celerys(app: App, retries: int, max_retries: int | None) -> None:
    """The same number of tries, whoever runs them."""
    client = celery.Celery("shop", broker="memory://", set_as_current=False)
    theirs = client.task(anything, name="t", max_retries=max_retries, lazy=False, shared=False)
    theirs.push_request(id="1", args=(), kwargs={}, retries=retries, called_directly=False, delivery_info={})
    ours = app.task(anything, name="t", max_retries=max_retries)
    running(ours, retries=retries)
    with pytest.raises((celery.exceptions.Retry, celery.exceptions.MaxRetriesExceededError)) as expected:
        theirs.retry()
    with pytest.raises((Retry, MaxRetriesExceededError)) as caught:
        ours.retry()
    assert type(caught.value).__name__ == type(expected.value).__name__
    client.close()


def test_retry_of_a_direct_call_raises_the_reason(app: App) -> None:
    @app.task(bind=True)
    def fail(self: Task) -> None:
        try:
            raise KeyError("first")
        except KeyError as exc:
            self.retry(exc=exc)

    with pytest.raises(KeyError, match="first"):
        fail()

    @app.task(bind=True)
    def fail_otherwise(self: Task) -> None:
        try:
            raise KeyError("first")
        except KeyError:
            self.retry(exc=ValueError("second"))

    with pytest.raises(ValueError, match="second") as caught:
        fail_otherwise()
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(Retry):
        app.task(lambda self: self.retry(), bind=True, name="bare")()


def test_retry_without_throw_is_sent_at_once(app: App, publisher: RecordingPublisher) -> None:
    task = app.task(anything, name="t")
    running(task)
    retry = task.retry(throw=False, countdown=5)
    assert retry.sent
    assert publisher.last.retries == 2 and publisher.sent[-1].routing_key == "sums"
    assert not Retry().sent


def test_retry_refuses_unknown_options(app: App) -> None:
    task = app.task(anything, name="t")
    running(task)
    with pytest.raises(TypeError, match="did you mean 'priority'"):
        task.retry(prioriti=3)  # type: ignore[call-arg]


def test_which_exceptions_are_tried_again(app: App) -> None:
    task = app.task(lambda: None, name="t", autoretry_for=(Exception,), dont_autoretry_for=[KeyError])
    assert should_autoretry(task, ValueError())
    for exc in (KeyError(), Retry(), Ignore(), Reject(), StopTask(), SystemExit()):
        assert not should_autoretry(task, exc)
    assert not should_autoretry(app.task(lambda: None, name="plain"), ValueError())


@pytest.mark.parametrize(
    ("options", "retries", "when"),
    [
        ({}, 0, 180),
        ({"default_retry_delay": 3}, 0, 3),
        ({"retry_kwargs": {"countdown": 2}}, 1, 2),
        ({"retry_backoff": True, "retry_jitter": False}, 2, 4),
        ({"retry_backoff": 5, "retry_jitter": False}, 1, 10),
        ({"retry_backoff": 5, "retry_jitter": False, "retry_backoff_max": 7}, 2, 7),
    ],
)
def test_autoretry_waits_as_celery_does(app: App, options: dict[str, Any], retries: int, when: float) -> None:
    def fail() -> None:
        raise ValueError("v")

    client = celery.Celery("shop", broker="memory://", set_as_current=False)
    theirs = client.task(fail, name="t", autoretry_for=(ValueError,), lazy=False, shared=False, **options)
    theirs.push_request(id="1", args=(), kwargs={}, retries=retries, called_directly=False, delivery_info={})
    with pytest.raises(celery.exceptions.Retry) as expected:
        theirs.run()
    client.close()

    ours = app.task(fail, name="t", autoretry_for=(ValueError,), **options)
    context = running(ours, retries=retries)
    with pytest.raises(Retry) as caught:
        autoretry(ours, context, ValueError("v"))
    assert caught.value.when == expected.value.when == when
    assert repr(caught.value.exc) == "ValueError('v')"


def test_autoretry_ends_with_the_exception_itself(app: App) -> None:
    task = app.task(lambda: None, name="t", autoretry_for=(ValueError,), max_retries=2)
    reason = ValueError("v")
    with pytest.raises(ValueError, match="v") as caught:
        autoretry(task, running(task, retries=2), reason)
    assert caught.value is reason
    own = app.task(lambda: None, name="own", autoretry_for=(ValueError,), retry_kwargs={"max_retries": 5})
    with pytest.raises(Retry):
        autoretry(own, running(own, retries=4), reason)
    with pytest.raises(ValueError, match="v"):
        autoretry(own, running(own, retries=5), reason)


def test_limit_of_an_explicit_retry_holds_for_autoretry_after_it(app: App) -> None:
    """``retry(max_retries=1, exc=e)`` raises ``e`` when used up; ``autoretry_for`` must not start it over."""
    task = app.task(lambda: None, name="t", autoretry_for=(ValueError,), max_retries=9)
    context = running(task, retries=1)
    reason = ValueError("v")
    with pytest.raises(ValueError, match="v"):
        task.retry(exc=reason, max_retries=1)
    with pytest.raises(ValueError, match="v"):
        autoretry(task, context, reason)


def by_name(a: Any, b: Any, *rest: Any, c: Any = None, **more: Any) -> None: ...


def two(a: Any, b: Any = 0) -> None: ...


def first_only_by_position(a: Any, /, b: Any = 0) -> None: ...


@pytest.mark.parametrize("function", [by_name, two, first_only_by_position])
@pytest.mark.parametrize("old", [((1, 2), {}), ((1,), {"b": 2}), ((), {"a": 1, "b": 2})])
@pytest.mark.parametrize("new", [(None, None), ((8, 9), None), ((8,), None), (None, {"b": 7}), ((8,), {"b": 7})])
def test_arguments_of_the_next_try_are_celerys(function: Any, old: Any, new: Any) -> None:
    client = celery.Celery("shop", broker="memory://", set_as_current=False)
    task = client.task(function, name="t", lazy=False, shared=False)
    sent: list[Any] = []
    task.push_request(
        id="1", args=old[0], kwargs=old[1], retries=0, called_directly=False, is_eager=True, delivery_info={}
    )
    with pytest.raises(celery.exceptions.Retry) as caught:
        task.retry(args=new[0], kwargs=new[1])
    sent.append((tuple(caught.value.sig.args), dict(caught.value.sig.kwargs)))
    client.close()
    args, kwargs = inherited_arguments(function, old[0], old[1], new[0], new[1])
    assert [(tuple(args), dict(kwargs))] == sent


@pytest.mark.parametrize("priority", [-1, 256])
def test_priority_of_a_retry_that_no_message_can_carry(app: App, priority: int) -> None:
    task = app.task(by_name, name="t")
    with pytest.raises(ValueError, match=f"task t, retry, priority: expected .* from 0 to 255, got {priority}"):
        task.retry(priority=priority)
