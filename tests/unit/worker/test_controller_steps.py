"""Every step of both blueprints keeps the start/stop contract, on the embedded broker and with the pool of threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from greenworker.app.app import App
from greenworker.bootsteps import Step
from greenworker.consumer.connection import Connection
from greenworker.consumer.consumer import STEPS as CONSUMER_STEPS
from greenworker.consumer.consumer import Consumer as BrokerConsumer
from greenworker.consumer.delayed_delivery import DelayedDelivery
from greenworker.consumer.evloop import Evloop
from greenworker.consumer.tasks import Tasks
from greenworker.execution.pool import PoolClosedError
from greenworker.settings import load_settings
from greenworker.worker.consumer import Consumer
from greenworker.worker.controller import STEPS, WorkController
from greenworker.worker.hub import Hub
from greenworker.worker.pool import Pool
from greenworker.worker.queues import Queues
from greenworker.worker.timer import Timer
from tests.support.stress import stress_step
from tests.support.worker import wait_until

TIMEOUT = 5.0
MakeController = Callable[..., WorkController]


@pytest.fixture
def make_controller(tmp_path: Path) -> Iterator[MakeController]:
    """Makes controllers with nothing started; their consumers are there to be taken."""
    apps: list[App] = []

    def make(**settings: str) -> WorkController:
        overrides = {
            ("worker", "pool"): "threads",
            ("worker", "concurrency"): "1",
            ("broker", "url"): f"sqlite:///{tmp_path}/broker.db",
            ("results", "url"): f"sqlite:///{tmp_path}/results.db",
            ("task", "ignore_result"): "true",
            **{tuple(key.split("_", 1)): value for key, value in settings.items()},  # type: ignore[dict-item]
        }
        app = App("steps", settings=load_settings(overrides=overrides, environ={}))
        apps.append(app)
        app.task(name="steps.note")(lambda: None)
        return WorkController(app, app.settings)

    yield make
    for app in apps:
        app.close()


def has_thread(name: str) -> bool:
    return any(thread.name == name for thread in threading.enumerate())


# --- the worker's steps ---------------------------------------------------------------------------------------------


def test_every_step_is_here() -> None:
    assert (Timer, Hub, Queues, Pool, Consumer) == STEPS
    assert (Connection, Tasks, DelayedDelivery, Evloop) == CONSUMER_STEPS


def test_timer(make_controller: MakeController) -> None:
    def running(controller: WorkController) -> bool:
        called = threading.Event()
        entry = controller.timer.call_later(0.0, called.set)
        alive = has_thread("greenworker-timer")
        if alive:
            assert called.wait(TIMEOUT), "the timer's thread is there, but calls nothing"
        entry.cancel()
        return alive

    stress_step(Timer, make_controller, running)


def test_hub(make_controller: MakeController) -> None:
    def running(controller: WorkController) -> bool:
        return controller.hub._poller is not None  # asking for .poller would make one

    stress_step(Hub, lambda: make_controller(broker_url="amqp://guest:guest@127.0.0.1:1//"), running)


@pytest.mark.parametrize("url", ["amqp://guest:guest@127.0.0.1:1//", None])
def test_hub_only_where_the_transport_is_asynchronous(url: str | None, make_controller: MakeController) -> None:
    controller = make_controller(**({"broker_url": url} if url else {}))
    assert ("hub" in [step.name for step in controller.blueprint.steps]) is (url is not None)
    assert (controller.hub is not None) is (url is not None)


def test_queues_has_nothing_to_start(make_controller: MakeController) -> None:
    """It only makes: the contract of start and stop is the base class's, which does nothing."""
    assert not {"start", "close", "stop", "terminate"} & set(vars(Queues))
    controller = make_controller(worker_queues="mail,slow,celery", worker_exclude_queues="slow")
    assert list(controller.queues) == ["mail", "celery"]


def test_pool(make_controller: MakeController) -> None:
    def running(controller: WorkController) -> bool:
        ran = threading.Event()
        try:
            controller.pool.submit(lambda run: ran.set())
        except PoolClosedError:
            wait_until(lambda: not has_thread("greenworker-slot"), TIMEOUT, "the threads of a closed pool to end")
            return False
        assert ran.wait(TIMEOUT), "the pool takes jobs, but runs none"
        return True

    stress_step(Pool, make_controller, running)


def test_pool_terminate_does_not_wait_for_its_jobs(make_controller: MakeController) -> None:
    controller = make_controller()
    step = Pool()
    step.create(controller)
    step.start(controller)
    goes_on, begun = threading.Event(), threading.Event()

    def job(run: object) -> None:
        begun.set()
        goes_on.wait(TIMEOUT)

    run = controller.pool.submit(job)
    assert begun.wait(TIMEOUT)
    step.terminate(controller)
    assert not run.ended
    goes_on.set()
    assert controller.pool.join(TIMEOUT)


def test_consumer(make_controller: MakeController, tmp_path: Path) -> None:
    @contextmanager
    def results_that_cannot_be_opened(controller: WorkController) -> Iterator[None]:
        files = [path for path in tmp_path.iterdir() if path.name.startswith("results.db")]
        for path in files:
            path.rename(path.with_name(f"away-{path.name}"))
        (tmp_path / "results.db").mkdir()
        try:
            yield
        finally:
            (tmp_path / "results.db").rmdir()
            for path in files:
                path.with_name(f"away-{path.name}").rename(path)

    stress_step(
        Consumer,
        make_controller,
        lambda _: has_thread("replacer"),
        break_start=results_that_cannot_be_opened,
    )


# --- the consumer's steps -------------------------------------------------------------------------------------------


@pytest.fixture
def make_consumer(make_controller: MakeController) -> Iterator[Callable[[], BrokerConsumer]]:
    """Makes consumers whose worker has its timer and its pool running."""
    controllers: list[WorkController] = []

    def make() -> BrokerConsumer:
        controller = make_controller()
        controllers.append(controller)
        for name in ("timer", "pool"):
            controller.blueprint.step(name).start(controller)
        return controller.consumer

    yield make
    for controller in controllers:
        for name in ("pool", "timer"):
            controller.blueprint.step(name).stop(controller)


def is_open(consumer: BrokerConsumer) -> bool:
    return consumer.source is not None and not consumer.source.closed


@contextmanager
def told_to_stop(consumer: BrokerConsumer) -> Iterator[None]:
    consumer.closing.set()
    yield
    consumer.closing.clear()


def test_connection(make_consumer: Callable[[], BrokerConsumer]) -> None:
    stress_step(Connection, make_consumer, is_open, break_start=told_to_stop)


class ConnectionAndTasks(Step[Any]):
    """Tasks on a connection of its own: what it starts on a source lives and dies with that source."""

    name = "connection and tasks"

    def create(self, parent: BrokerConsumer) -> None:
        self._both = (Connection(), Tasks())
        for step in self._both:
            step.create(parent)

    def start(self, parent: BrokerConsumer) -> None:
        for step in self._both:
            step.start(parent)

    def close(self, parent: BrokerConsumer) -> None:
        for step in reversed(self._both):
            step.close(parent)

    def stop(self, parent: BrokerConsumer) -> None:
        for step in reversed(self._both):
            step.stop(parent)


def takes_messages(consumer: BrokerConsumer) -> bool:
    """Whether a task that is sent now runs."""
    if not is_open(consumer):
        return False
    source, app = consumer.source, consumer.parts.app
    assert source is not None
    done = threading.Event()
    app.tasks["steps.note"].run = done.set
    app.send_task("steps.note")
    deadline = time.monotonic() + TIMEOUT
    while not done.is_set() and time.monotonic() < deadline:
        source.pump(0.01)
    wait_until(lambda: len(consumer.parts.services.ledger) == 0, TIMEOUT, "its settlement")
    source.flush()
    return done.is_set()


def test_tasks(make_consumer: Callable[[], BrokerConsumer]) -> None:
    def warm() -> BrokerConsumer:
        """One whose producer and pool have opened and started what they need."""
        consumer, step = make_consumer(), ConnectionAndTasks()
        step.create(consumer)
        step.start(consumer)
        assert takes_messages(consumer)
        step.stop(consumer)
        return consumer

    stress_step(ConnectionAndTasks, warm, takes_messages, break_start=told_to_stop, rounds=3)


def test_evloop(make_consumer: Callable[[], BrokerConsumer]) -> None:
    stress_step(Evloop, make_consumer, lambda consumer: consumer.loop is not None)


def test_consumer_blueprint_runs_tasks_and_ends_when_it_is_told_to(make_controller: MakeController) -> None:
    controller = make_controller()
    for step in controller.blueprint.steps:
        step.start(controller)
    consumer, done = controller.consumer, threading.Event()
    thread = threading.Thread(target=consumer.run, daemon=True)
    thread.start()
    try:
        controller.app.tasks["steps.note"].run = done.set
        wait_until(lambda: is_open(consumer), TIMEOUT, "a connection")
        controller.app.send_task("steps.note")
        assert done.wait(TIMEOUT)
    finally:
        consumer.stop()
        thread.join(TIMEOUT)
        for step in reversed(controller.blueprint.steps):
            step.stop(controller)
    assert not thread.is_alive()
    assert not is_open(consumer)
