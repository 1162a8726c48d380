"""Blueprints: order, states, what happens when a step fails; and that the stress helper sees each broken promise."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from greenworker.bootsteps import (
    TRANSITIONS,
    Blueprint,
    ConsumerStep,
    Event,
    IllegalMoveError,
    Placement,
    StartStopStep,
    State,
    Step,
    placed,
)
from tests.support.stress import DeliberateError, stress_step

TIMEOUT = 5.0


class Journal:
    """The parent of the steps below: writes down what is called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def take(self) -> list[str]:
        """The calls since the last take."""
        calls, self.calls = self.calls, []
        return calls


class Recording(Step[Journal]):
    """Writes every call into the parent's journal."""

    def create(self, parent: Journal) -> None:
        parent.calls.append(f"create {self.name}")

    def start(self, parent: Journal) -> None:
        parent.calls.append(f"start {self.name}")

    def close(self, parent: Journal) -> None:
        parent.calls.append(f"close {self.name}")

    def stop(self, parent: Journal) -> None:
        parent.calls.append(f"stop {self.name}")

    def terminate(self, parent: Journal) -> None:
        parent.calls.append(f"terminate {self.name}")


class One(Recording):
    name = "one"


class Two(Recording):
    name = "two"
    requires = ("one",)


class Three(Recording):
    name = "three"
    requires = ("one", "two")


class Extra(Recording):
    name = "extra"


def blueprint_of(*steps: type[Step[Journal]], extra: tuple[Placement, ...] = ()) -> tuple[Blueprint[Journal], Journal]:
    journal = Journal()
    blueprint = Blueprint("test", steps, extra).apply(journal)
    journal.take()
    return blueprint, journal


# -- order


def test_steps_start_in_order_and_close_and_stop_in_reverse() -> None:
    journal = Journal()
    blueprint = Blueprint("test", (One, Two, Three)).apply(journal)
    assert journal.take() == ["create one", "create two", "create three"]
    blueprint.start(journal)
    assert journal.take() == ["start one", "start two", "start three"]
    blueprint.close(journal)
    assert journal.take() == ["close three", "close two", "close one"]
    blueprint.stop(journal)
    assert journal.take() == ["stop three", "stop two", "stop one"]


def test_terminate_goes_in_reverse_too() -> None:
    blueprint, journal = blueprint_of(One, Two, Three)
    blueprint.start(journal)
    journal.take()
    blueprint.terminate(journal)
    assert journal.take() == ["terminate three", "terminate two", "terminate one"]
    assert blueprint.state is State.STOPPED


def test_a_missing_requirement_names_the_step_and_the_order() -> None:
    with pytest.raises(ValueError, match=r"step 'three' requires two before it; the order is one, three"):
        Blueprint("test", (One, Three))


def test_a_requirement_that_comes_later_is_missing() -> None:
    with pytest.raises(ValueError, match=r"step 'two' requires one before it"):
        Blueprint("test", (Two, One))


def test_two_steps_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two steps are named 'one'"):
        Blueprint("test", (One, Two), (Placement(One),))


def test_a_step_that_takes_no_part_is_never_created() -> None:
    class Absent(Recording):
        name = "absent"

        def include_if(self, parent: Journal) -> bool:
            return False

    journal = Journal()
    blueprint = Blueprint("test", (One, Absent, Two)).apply(journal)
    assert journal.take() == ["create one", "create two"]
    assert [step.name for step in blueprint.steps] == ["one", "two"]
    with pytest.raises(KeyError):
        blueprint.step("absent")


# -- the user's steps


@pytest.mark.parametrize(
    ("placement", "order"),
    [
        (Placement(Extra), ["one", "two", "three", "extra"]),
        (Placement(Extra, before="one"), ["extra", "one", "two", "three"]),
        (Placement(Extra, before="three"), ["one", "two", "extra", "three"]),
        (Placement(Extra, after="one"), ["one", "extra", "two", "three"]),
        (Placement(Extra, after="three"), ["one", "two", "three", "extra"]),
    ],
)
def test_a_users_step_goes_where_it_is_placed(placement: Placement, order: list[str]) -> None:
    assert [step.name for step in placed((One, Two, Three), [placement])] == order


def test_a_users_step_can_stand_beside_another_ones() -> None:
    class Later(Recording):
        name = "later"
        requires = ("extra",)

    blueprint, journal = blueprint_of(One, extra=(Placement(Extra, before="one"), Placement(Later, after="extra")))
    blueprint.start(journal)
    assert journal.take() == ["start extra", "start later", "start one"]


def test_a_placement_beside_no_step_lists_the_steps() -> None:
    with pytest.raises(ValueError, match=r"step 'extra' should stand beside 'tow', but the steps are: one, two"):
        placed((One, Two), [Placement(Extra, before="tow")])


def test_a_placement_on_both_sides_is_refused() -> None:
    with pytest.raises(ValueError, match=r"before 'two' and after 'one': give one of them"):
        Placement(Extra, before="two", after="one")


# -- states


def moved_to(state: State) -> tuple[Blueprint[Journal], Journal]:
    """A blueprint in ``state``, by the moves of a real life where there is one."""
    blueprint, journal = blueprint_of(One)
    if state in {State.RUNNING, State.CLOSING, State.STOPPED}:
        blueprint.start(journal)
    if state is State.CLOSING:
        blueprint.close(journal)
    if state is State.STOPPED:
        blueprint.stop(journal)
    if state in {State.STARTING, State.STOPPING}:
        blueprint.state = state  # only seen from within a step, or from another greenlet
    journal.take()
    return blueprint, journal


@pytest.mark.parametrize("state", State)
def test_start_is_legal_before_a_life_and_after_it(state: State) -> None:
    blueprint, journal = moved_to(state)
    if state in {State.NEW, State.STOPPED}:
        blueprint.start(journal)
        assert blueprint.state is State.RUNNING
    else:
        with pytest.raises(IllegalMoveError, match=f"test blueprint cannot start: it is {state.value}"):
            blueprint.start(journal)
        assert blueprint.state is state
        assert journal.take() == []


@pytest.mark.parametrize("state", State)
def test_close_and_stop_are_legal_always(state: State) -> None:
    assert {(state, Event.CLOSE), (state, Event.STOP)} <= set(TRANSITIONS)
    blueprint, journal = moved_to(state)
    blueprint.close(journal)
    expected = {State.STARTING: State.CLOSING, State.RUNNING: State.CLOSING}
    assert blueprint.state is expected.get(state, state)
    blueprint.stop(journal)
    blueprint.stop(journal)
    assert blueprint.state is (State.NEW if state is State.NEW else State.STOPPED)


def test_every_state_is_reached_and_left_and_no_table_row_is_unused() -> None:
    reached = {State.NEW} | {to for (at, _), to in TRANSITIONS.items() if to is not at}
    left = {at for (at, _), to in TRANSITIONS.items() if to is not at}
    assert reached == left == set(State)
    inner = {(at, event) for at, event in TRANSITIONS if event in {Event.STARTED, Event.ENDED}}
    assert inner == {(State.STARTING, Event.STARTED), (State.STOPPING, Event.ENDED)}


def test_stop_and_close_before_start_call_no_step() -> None:
    blueprint, journal = blueprint_of(One, Two)
    blueprint.close(journal)
    blueprint.stop(journal)
    blueprint.terminate(journal)
    assert journal.take() == []
    assert blueprint.state is State.NEW


def test_stop_twice_stops_once() -> None:
    blueprint, journal = blueprint_of(One)
    blueprint.start(journal)
    blueprint.stop(journal)
    journal.take()
    blueprint.stop(journal)
    blueprint.terminate(journal)
    blueprint.close(journal)
    assert journal.take() == []


def test_restart_count_counts_starts_after_the_first() -> None:
    blueprint, journal = blueprint_of(One)
    for expected in range(3):
        blueprint.start(journal)
        assert blueprint.restart_count == expected
        blueprint.stop(journal)
    assert journal.take() == ["start one", "stop one"] * 3


def test_the_boot_order_and_each_steps_time_are_logged_at_debug_level(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "greenworker.bootsteps"):
        blueprint, journal = blueprint_of(One, Two)
        blueprint.start(journal)
    assert "test blueprint: one -> two" in caplog.messages
    assert [line.split(" in ")[0] for line in caplog.messages[1:]] == [
        "test blueprint: one started",
        "test blueprint: two started",
    ]


# -- failures


class Failing(Recording):
    """Fails to start ``failures`` times, then starts."""

    name = "failing"
    failures = 1
    error: BaseException = DeliberateError("broken")

    def start(self, parent: Journal) -> None:
        super().start(parent)
        if self.failures:
            self.failures -= 1
            raise self.error


@pytest.mark.parametrize("error", [DeliberateError("broken"), KeyboardInterrupt(), SystemExit(3)])
def test_a_failed_start_undoes_what_was_started_in_reverse(error: BaseException) -> None:
    blueprint, journal = blueprint_of(One, Two, type("Broken", (Failing,), {"error": error}), Extra)
    with pytest.raises(type(error)) as raised:
        blueprint.start(journal)
    assert raised.value is error
    assert journal.take() == ["start one", "start two", "start failing", "stop failing", "stop two", "stop one"]
    assert blueprint.state is State.STOPPED
    blueprint.start(journal)
    assert blueprint.state is State.RUNNING
    assert blueprint.restart_count == 1


@pytest.mark.parametrize("method", ["close", "stop", "terminate"])
def test_a_step_that_fails_to_end_does_not_keep_the_others(method: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail(self: Step[Journal], parent: Journal) -> None:
        raise DeliberateError(method)

    broken = type("Broken", (Recording,), {"name": "broken", method: fail})
    blueprint, journal = blueprint_of(One, broken, Extra)
    blueprint.start(journal)
    journal.take()
    getattr(blueprint, method)(journal)
    assert journal.take() == [f"{method} extra", f"{method} one"]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == f"test blueprint: {method} of step broken failed"
    assert record.exc_info is not None
    assert record.exc_info[0] is DeliberateError


def test_a_stop_that_is_interrupted_can_be_finished() -> None:
    class Interrupted(Recording):
        name = "interrupted"
        interrupts = iter([KeyboardInterrupt()])

        def stop(self, parent: Journal) -> None:
            for interrupt in self.interrupts:
                raise interrupt
            super().stop(parent)

    blueprint, journal = blueprint_of(One, Interrupted, Extra)
    blueprint.start(journal)
    journal.take()
    with pytest.raises(KeyboardInterrupt):
        blueprint.stop(journal)
    assert blueprint.state is State.STOPPING
    blueprint.stop(journal)
    assert journal.take() == ["stop extra", "stop interrupted", "stop one"]
    assert blueprint.state is State.STOPPED


# -- several greenlets (threads here: the contract is the same)


class Gated(Recording):
    """Start and stop wait for their gate; each says when it is there."""

    name = "gated"

    def __init__(self) -> None:
        self.starting, self.stopping = threading.Event(), threading.Event()
        self.start_gate, self.stop_gate = threading.Event(), threading.Event()

    def start(self, parent: Journal) -> None:
        self.starting.set()
        assert self.start_gate.wait(TIMEOUT)
        super().start(parent)

    def stop(self, parent: Journal) -> None:
        self.stopping.set()
        assert self.stop_gate.wait(TIMEOUT)
        super().stop(parent)

    def terminate(self, parent: Journal) -> None:
        super().terminate(parent)
        self.stop_gate.set()


@contextmanager
def in_thread(function: Any, *args: Any) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=function, args=args)
    thread.start()
    yield thread
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def gated_blueprint() -> tuple[Blueprint[Journal], Journal, Gated]:
    blueprint, journal = blueprint_of(One, Gated, Extra)
    gated = blueprint.step("gated")
    assert isinstance(gated, Gated)
    return blueprint, journal, gated


def test_stop_during_start_starts_no_further_step_and_leaves_none_running() -> None:
    blueprint, journal, gated = gated_blueprint()
    gated.stop_gate.set()
    with in_thread(blueprint.start, journal):
        assert gated.starting.wait(TIMEOUT)
        blueprint.stop(journal)
        assert blueprint.state is State.STOPPED
        assert journal.take() == ["start one", "stop gated", "stop one"]
        gated.start_gate.set()
    assert journal.take() == ["start gated", "stop gated"]  # it came too late to be stopped the first time
    assert blueprint.state is State.STOPPED


def test_close_during_start_starts_no_further_step() -> None:
    blueprint, journal, gated = gated_blueprint()
    with in_thread(blueprint.start, journal):
        assert gated.starting.wait(TIMEOUT)
        blueprint.close(journal)
        gated.start_gate.set()
    assert journal.take() == ["start one", "close gated", "close one", "start gated", "close gated"]
    assert blueprint.state is State.CLOSING
    gated.stop_gate.set()
    blueprint.stop(journal)
    assert journal.take() == ["stop gated", "stop one"]


def test_terminate_ends_a_stop_that_waits() -> None:
    blueprint, journal, gated = gated_blueprint()
    gated.start_gate.set()
    blueprint.start(journal)
    journal.take()
    with in_thread(blueprint.stop, journal):
        assert gated.stopping.wait(TIMEOUT)
        blueprint.terminate(journal)
    calls = journal.take()
    assert calls[:2] == ["stop extra", "terminate gated"]
    assert "stop gated" in calls
    assert {"stop one", "terminate one"} & set(calls)
    assert blueprint.state is State.STOPPED


def test_a_second_stop_waits_for_the_step_that_the_first_one_waits_for() -> None:
    blueprint, journal, gated = gated_blueprint()
    gated.start_gate.set()
    blueprint.start(journal)
    journal.take()
    with in_thread(blueprint.stop, journal):
        assert gated.stopping.wait(TIMEOUT)
        gated.stopping.clear()
        with in_thread(blueprint.stop, journal):
            assert gated.stopping.wait(TIMEOUT)
            assert "stop one" not in journal.calls
            gated.stop_gate.set()
    assert blueprint.state is State.STOPPED
    assert journal.calls[:2] == ["stop extra", "stop gated"]
    assert "stop one" in journal.calls


# -- steps with a service


class Service:
    """A thread that waits to be told to end; files a line for each call."""

    def __init__(self, parent: Journal) -> None:
        self.parent = parent
        self._thread: threading.Thread | None = None
        self._end = threading.Event()

    def start(self) -> None:
        self.parent.calls.append("start")
        self._end.clear()
        self._thread = threading.Thread(target=self._end.wait, args=(TIMEOUT,))
        self._thread.start()

    def stop(self) -> None:
        self.parent.calls.append("stop")
        thread, self._thread = self._thread, None
        self._end.set()
        if thread is not None:
            thread.join(TIMEOUT)

    @property
    def alive(self) -> bool:
        return self._thread is not None


class FullService(Service):
    def close(self) -> None:
        self.parent.calls.append("close")

    def terminate(self) -> None:
        self.parent.calls.append("terminate")
        self.stop()


class Serving(StartStopStep[Any]):
    name = "serving"
    service_class: type[Service] = Service

    def make(self, parent: Any) -> Service:
        parent.service = self.service_class(parent)
        return parent.service  # type: ignore[no-any-return]

    def info(self, parent: Any) -> dict[str, Any]:
        return {"alive": self.service.alive}


class FullyServing(Serving):
    service_class = FullService


class ServingParent(Journal):
    service: Any = None

    @property
    def running(self) -> bool:
        return self.service is not None and self.service.alive


def test_a_service_without_close_and_terminate_is_stopped_instead() -> None:
    parent = ServingParent()
    blueprint: Blueprint[Any] = Blueprint("test", (Serving,)).apply(parent)
    blueprint.start(parent)
    blueprint.close(parent)
    blueprint.terminate(parent)
    assert parent.calls == ["start", "stop"]


def test_a_services_own_close_and_terminate_are_called() -> None:
    parent = ServingParent()
    blueprint: Blueprint[Any] = Blueprint("test", (FullyServing,)).apply(parent)
    blueprint.start(parent)
    blueprint.close(parent)
    blueprint.terminate(parent)
    assert parent.calls == ["start", "close", "terminate", "stop"]


def test_stop_before_create_is_harmless() -> None:
    Serving().stop(ServingParent())
    Serving().terminate(ServingParent())
    Serving().close(ServingParent())


def test_a_step_without_make_says_so() -> None:
    class Unmade(StartStopStep[Any]):
        name = "unmade"

    with pytest.raises(NotImplementedError, match=r"Unmade\.make"):
        Blueprint("test", (Unmade,)).apply(None)


def test_info_has_a_row_for_each_step_that_has_something_to_tell() -> None:
    parent = ServingParent()
    blueprint: Blueprint[Any] = Blueprint("test", (One, Serving)).apply(parent)
    assert blueprint.info(parent) == {"serving": {"alive": False}}


# -- the stress helper: passes what keeps the contract, sees each breach


@contextmanager
def broken_start(parent: Any) -> Iterator[None]:
    def start() -> None:
        raise DeliberateError

    parent.service.start = start
    try:
        yield
    finally:
        del parent.service.start


@pytest.mark.parametrize("step_class", [Serving, FullyServing])
def test_stress_passes_steps_that_keep_the_contract(step_class: type[Serving]) -> None:
    stress_step(step_class, ServingParent, lambda parent: parent.running, break_start=broken_start)


class StopsLate(Serving):
    """Its stop does not wait."""

    def stop(self, parent: Any) -> None:
        if parent.service.alive:
            parent.calls.append("later")
            threading.Timer(0.1, parent.service.stop).start()


class FailsOnSecondStop(Serving):
    def stop(self, parent: Any) -> None:
        if not parent.service.alive:
            raise RuntimeError("not running")
        super().stop(parent)


class StartsOnce(Serving):
    starts: itertools.count[int]

    def create(self, parent: Any) -> None:
        super().create(parent)
        self.starts = itertools.count()

    def start(self, parent: Any) -> None:
        if next(self.starts) == 0:
            super().start(parent)


class NeverStarts(Serving):
    def start(self, parent: Any) -> None:
        pass


class RunsFromCreate(Serving):
    def create(self, parent: Any) -> None:
        super().create(parent)
        parent.service.start()


class LeaksFiles(Serving):
    files: tuple[Any, ...] = ()

    def start(self, parent: Any) -> None:
        super().start(parent)
        self.files += (open(__file__),)  # noqa: PTH123, SIM115 - the leak is the point

    def __del__(self) -> None:
        for file in self.files:
            file.close()


class WaitsInClose(Serving):
    def close(self, parent: Any) -> None:
        if parent.service.alive:
            threading.Event().wait(0.3)


class IgnoresTerminate(Serving):
    def terminate(self, parent: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("step_class", "complaint"),
    [
        (StopsLate, "still runs when stop has returned"),
        (FailsOnSecondStop, "not running"),
        (StartsOnce, "not there when start has returned"),
        (NeverStarts, "cannot start after an early stop"),
        (RunsFromCreate, "runs after create"),
        (LeaksFiles, "rounds left"),
        (WaitsInClose, "close took"),
        (IgnoresTerminate, "still runs when terminate has returned"),
    ],
)
def test_stress_sees_a_broken_promise(step_class: type[Serving], complaint: str) -> None:
    parents: list[ServingParent] = []

    def make_parent() -> ServingParent:
        parents.append(ServingParent())
        return parents[-1]

    with pytest.raises((AssertionError, RuntimeError), match=complaint):
        stress_step(step_class, make_parent, lambda parent: parent.running)
    for parent in parents:
        if parent.running:
            parent.service.stop()


def test_a_consumer_step_is_an_ordinary_step() -> None:
    assert issubclass(ConsumerStep, Step)
