"""The one check of the start/stop contract (greenworker/bootsteps.py) that the test of every step calls.

Plain assertions, no pytest: steps that need a patched process are stressed in a subprocess, with the same call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from greenworker.bootsteps import Blueprint, State, Step

CLOSE_TIMEOUT = 0.5  # close does not wait; on two busy cores this is what "at once" takes at most


class DeliberateError(Exception):
    """Raised by the step that fails on purpose."""


class _Failing(Step[Any]):
    """Comes after the step under stress; fails to start while ``fails`` is set."""

    name = "failing"
    fails = True

    def start(self, parent: Any) -> None:
        if self.fails:
            raise DeliberateError


def stress_step(
    step_class: type[Step[Any]],
    make_parent: Callable[[], Any],
    running: Callable[[Any], bool],
    *,
    break_start: Callable[[Any], AbstractContextManager[object]] | None = None,
    rounds: int = 5,
    stop_timeout: float = 5.0,
) -> None:
    """Assert that ``step_class`` keeps the start/stop contract.

    ``make_parent`` returns a new parent with all that the step needs running; ``running`` tells, by looking at the
    world, not at the step's own word, whether the step's service is there. ``break_start``, where given, is a context
    manager in which the step's own start fails. Start returns when the service is there: a step whose start
    blocks is not for this function.
    """
    _stops_before_start(step_class, make_parent(), running)
    _starts_and_stops(step_class, make_parent(), running, rounds, stop_timeout)
    _closes_without_waiting(step_class, make_parent(), running)
    _terminates(step_class, make_parent(), running, stop_timeout)
    _is_undone_when_a_later_step_fails(step_class, make_parent(), running)
    if break_start is not None:
        _own_failure_leaves_nothing(step_class, make_parent(), running, break_start)


def _stops_before_start(step_class: type[Step[Any]], parent: Any, running: Callable[[Any], bool]) -> None:
    step = _created(step_class, parent)
    assert not running(parent), f"{step.name}: runs after create, before start"
    for method in (step.close, step.stop, step.stop, step.terminate):
        method(parent)
    assert not running(parent), f"{step.name}: runs after stop before start"
    step.start(parent)
    assert running(parent), f"{step.name}: cannot start after an early stop"
    step.stop(parent)
    assert not running(parent), f"{step.name}: still runs when stop has returned"


def _starts_and_stops(
    step_class: type[Step[Any]], parent: Any, running: Callable[[Any], bool], rounds: int, stop_timeout: float
) -> None:
    step = _created(step_class, parent)
    step.start(parent)  # the first round may fill caches; what is compared is what comes after it
    step.stop(parent)
    before = _held()
    for number in range(rounds):
        step.start(parent)
        assert running(parent), f"{step.name}: not there when start has returned, round {number}"
        step.info(parent)
        with _within(stop_timeout, f"{step.name}: stop"):
            step.stop(parent)
        assert not running(parent), f"{step.name}: still runs when stop has returned, round {number}"
        step.stop(parent)
        step.close(parent)
        step.terminate(parent)
        assert not running(parent), f"{step.name}: runs again after a second stop, close or terminate, round {number}"
    after = _held()
    assert after == before, f"{step.name}: {rounds} rounds left (threads, files) {after}, not {before}"


def _closes_without_waiting(step_class: type[Step[Any]], parent: Any, running: Callable[[Any], bool]) -> None:
    step = _created(step_class, parent)
    step.start(parent)
    with _within(CLOSE_TIMEOUT, f"{step.name}: close"):
        step.close(parent)
        step.close(parent)
    step.stop(parent)
    assert not running(parent), f"{step.name}: still runs after close and stop"


def _terminates(step_class: type[Step[Any]], parent: Any, running: Callable[[Any], bool], stop_timeout: float) -> None:
    step = _created(step_class, parent)
    for number in range(2):
        step.start(parent)
        assert running(parent), f"{step.name}: not there after start, round {number} of terminate"
        with _within(stop_timeout, f"{step.name}: terminate"):
            step.terminate(parent)
        assert not running(parent), f"{step.name}: still runs when terminate has returned"
        step.terminate(parent)
        step.stop(parent)


def _is_undone_when_a_later_step_fails(
    step_class: type[Step[Any]], parent: Any, running: Callable[[Any], bool]
) -> None:
    # Requirements on other steps are the parent's business here: it has them running.
    alone = type(step_class.__name__, (step_class,), {"requires": ()})
    blueprint: Blueprint[Any] = Blueprint("stress", (alone, _Failing)).apply(parent)
    assert len(blueprint.steps) == 2, f"{step_class.name}: include_if says no for the parent that the test made"
    for _ in range(2):
        try:
            blueprint.start(parent)
        except DeliberateError:
            pass
        else:
            raise AssertionError("the failing step started")
        assert blueprint.state is State.STOPPED
        assert not running(parent), f"{step_class.name}: still runs after a start that failed behind it"
    failing = blueprint.step("failing")
    assert isinstance(failing, _Failing)
    failing.fails = False
    blueprint.start(parent)
    assert running(parent), f"{step_class.name}: cannot start after a start that failed behind it"
    blueprint.stop(parent)
    assert not running(parent), f"{step_class.name}: still runs when its blueprint has stopped"


def _own_failure_leaves_nothing(
    step_class: type[Step[Any]],
    parent: Any,
    running: Callable[[Any], bool],
    break_start: Callable[[Any], AbstractContextManager[object]],
) -> None:
    step = _created(step_class, parent)
    for number in range(2):
        with break_start(parent):
            try:
                step.start(parent)
            except Exception:  # whatever it is that the break brings about
                pass
            else:
                raise AssertionError(f"{step.name}: started although its start was broken")
            step.stop(parent)
        assert not running(parent), f"{step.name}: runs after a start of its own that failed"
        step.start(parent)
        assert running(parent), f"{step.name}: cannot start after its start failed, round {number}"
        step.stop(parent)


def _created(step_class: type[Step[Any]], parent: Any) -> Step[Any]:
    step = step_class()
    assert step.include_if(parent), f"{step.name}: include_if says no for the parent that the test made"
    step.create(parent)
    return step


def _held() -> tuple[int, int]:
    """What a leak would show in: threads and open files of this process."""
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def _within(seconds: float, what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took <= seconds, f"{what} took {took:.2f} s, more than {seconds:g} s"
