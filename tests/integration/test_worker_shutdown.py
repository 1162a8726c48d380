"""Shutdown of a real worker: what runs ends or goes back, what waits goes back at once, and the process always ends."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from greenworker.broker.amqp.source import STOP_TIMEOUT
from greenworker.errors import EXIT_OK, EXIT_PUT_BACK
from greenworker.worker.shutdown import HANG_TIMEOUT
from tests.support.fault_scenes import Scene, sqlite_url
from tests.support.proxy import Proxy
from tests.support.rabbitmq import RabbitMQ, free_port
from tests.support.worker import Worker, wait_until

MakeScene = Callable[..., Scene]
full = pytest.mark.full
CELLS = [
    ("gevent", "rabbitmq"),
    ("threads", "sqlite"),
    ("eventlet", "rabbitmq"),
    pytest.param("gevent", "sqlite", marks=full),
    pytest.param("threads", "rabbitmq", marks=full),
    pytest.param("eventlet", "sqlite", marks=full),
]
FULL_BUT_GEVENT = ["gevent", pytest.param("eventlet", marks=full), pytest.param("threads", marks=full)]
GREEN_CELLS = [("gevent", "rabbitmq"), ("eventlet", "sqlite")]


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeScene]:
    """Makes the test's scene on ``rabbitmq`` or ``sqlite``."""
    scenes: list[Scene] = []

    def make(kind: str, **sections: dict[str, object]) -> Scene:
        url = request.getfixturevalue("rabbitmq_url") if kind == "rabbitmq" else sqlite_url(tmp_path)
        scenes.append(Scene(tmp_path, url, **sections))
        return scenes[-1]

    yield make
    for each in scenes:
        each.close()


def worker_settings(pool: str, **more: object) -> dict[str, object]:
    return {"pool": pool, "concurrency": 2, "prefetch_multiplier": 10, **more}


def begun(scene: Scene, count: int) -> None:
    wait_until(lambda: len(scene.ids("begin")) >= count, what=f"{count} tasks running, got {scene.ids('begin')}")


def timed_stop(worker: Worker, signum: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
    """Exit code, and the seconds it took."""
    began = time.monotonic()
    return worker.stop(signum), time.monotonic() - began


@pytest.mark.parametrize(("pool", "broker"), CELLS)
def test_warm_shutdown_finishes_what_runs_and_gives_the_rest_back_at_once(
    pool: str, broker: str, scene: MakeScene
) -> None:
    there = scene(broker, worker=worker_settings(pool))
    with there.worker() as worker:
        there.send("work", 2.0, count=2)
        begun(there, 2)
        there.send("work", 0.0, count=6)
        there.send("work", 0.0, countdown=60)
        wait_until(lambda: there.waiting() == 0, what="all prefetched")
        worker.send(signal.SIGTERM)
        wait_until(lambda: there.waiting() == 7, 1.0, "6 prefetched messages and the one with an ETA back")
        assert there.ids("end") == [], "they went back only when the running tasks had ended"
        assert worker.wait() == EXIT_OK
    assert len(there.ids("end")) == 2
    assert there.waiting() == 7, "running tasks were acked, nothing else was"


def test_solo_finishes_its_task_then_gives_the_rest_back(scene: MakeScene) -> None:
    there = scene("sqlite", worker=worker_settings("solo"))
    with there.worker() as worker:
        there.send("work", 0.7, count=4)
        begun(there, 1)
        assert worker.stop() == EXIT_OK
    assert (len(there.ids("end")), there.waiting()) == (1, 3)


@pytest.mark.parametrize(("pool", "broker"), GREEN_CELLS)
def test_what_outlives_the_timeout_is_cancelled_and_put_back(pool: str, broker: str, scene: MakeScene) -> None:
    there = scene(broker, worker=worker_settings(pool, shutdown_timeout="0.5s"))
    with there.worker() as worker:
        ids = there.send("tidy", 30.0, count=2)
        begun(there, 2)
        code, took = timed_stop(worker)
        assert code == EXIT_PUT_BACK
        assert 0.5 <= took < 0.5 + 2.0
    assert sorted(there.ids("cleaned")) == sorted(ids), "the bodies could clean up"
    assert there.waiting() == 2
    with there.worker("next") as following:
        begun(there, 4)
        following.stop(signal.SIGQUIT)
    assert sorted(there.ids("begin")) == sorted(ids * 2)
    assert {line["retries"] for line in there.journal.lines()} == {0}, "being put back is no retry"


@pytest.mark.parametrize(
    ("signals", "cold"),
    [
        ((signal.SIGINT,), False),
        ((signal.SIGTERM, signal.SIGTERM), False),
        ((signal.SIGINT, signal.SIGINT), True),
        ((signal.SIGTERM, signal.SIGQUIT), True),
        ((signal.SIGQUIT,), True),
    ],
    ids=lambda value: "+".join(each.name for each in value) if isinstance(value, tuple) else None,
)
def test_signals(signals: tuple[signal.Signals, ...], cold: bool, scene: MakeScene) -> None:
    there = scene("sqlite", worker=worker_settings("gevent"))
    with there.worker() as worker:
        there.send("work", 1.2)
        begun(there, 1)
        for number, signum in enumerate(signals, 1):
            worker.send(signum)
            worker.wait_for_line(f"Received {signum.name}", count=signals[:number].count(signum))
        assert worker.wait() == (EXIT_PUT_BACK if cold else EXIT_OK)
    assert (len(there.ids("end")), there.waiting()) == ((0, 1) if cold else (1, 0))


@pytest.mark.parametrize("pool", ["gevent", pytest.param("eventlet", marks=full), "threads"])
def test_task_that_swallows_its_interruption(pool: str, scene: MakeScene) -> None:
    """threads: row ``put_back=False`` of the capability table: not interrupted, but its message goes back."""
    there = scene("sqlite", worker=worker_settings(pool, shutdown_timeout="0.5s"))
    with there.worker() as worker:
        there.send("stubborn", count=2)
        begun(there, 2)
        code, took = timed_stop(worker)
    assert (code, there.waiting()) == (EXIT_PUT_BACK, 2), worker.output
    assert took < 0.5 + 5.0


@pytest.mark.parametrize(
    "pool", ["gevent", pytest.param("eventlet", marks=full), "threads", pytest.param("solo", marks=full)]
)
def test_task_that_never_yields(pool: str, scene: MakeScene) -> None:
    """solo and the green pools: nothing but the guardian's native thread can run."""
    there = scene("sqlite", worker=worker_settings(pool, shutdown_timeout="0.5s"), broker={"lease_timeout": "2s"})
    with there.worker() as worker:
        there.send("spin")
        begun(there, 1)
        code, took = timed_stop(worker)
    assert code == EXIT_PUT_BACK
    assert took < 0.5 + HANG_TIMEOUT + 1.0
    if pool != "threads":
        assert "fault_tasks.py" in worker.output.partition("ending the process")[2], (
            "it says where the process is stuck"
        )


def test_thread_left_by_a_task_does_not_keep_the_process(scene: MakeScene) -> None:
    there = scene("sqlite", worker=worker_settings("threads"))
    with there.worker() as worker:
        there.send("leaves_thread")
        wait_until(lambda: there.ids("end"), what="the task")
        code, took = timed_stop(worker)
    assert code == EXIT_OK
    assert took < 8.0


@pytest.mark.parametrize("pool", ["gevent", "threads"])
def test_early_acked_task_that_is_interrupted_is_said_to_be_lost(pool: str, scene: MakeScene) -> None:
    there = scene("sqlite", results=True, worker=worker_settings(pool, shutdown_timeout="0.3s"))
    with there.worker() as worker:
        (task_id,) = there.send("early", 30.0)
        begun(there, 1)
        assert worker.stop() == EXIT_PUT_BACK
    result = there.client.AsyncResult(task_id)
    assert result.state == "FAILURE"
    assert "TaskLostError" in repr(result.result)
    assert f"faults.early[{task_id}] acked its message when it started" in worker.output
    assert there.waiting() == 0


# --- no connection ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["gevent", "threads"])
def test_while_connecting_to_a_dead_broker(pool: str, tmp_path: Path) -> None:
    url = f"amqp://guest:guest@127.0.0.1:{free_port()}//"
    worker = Scene(tmp_path, url, worker=worker_settings(pool)).worker()
    worker.launch()
    try:
        worker.wait_for_line("Cannot connect", count=2)
        code, took = timed_stop(worker)
    finally:
        worker.kill()
    assert code == EXIT_OK, worker.output
    assert took < 2.0


@pytest.mark.parametrize("pool", FULL_BUT_GEVENT)
def test_while_reconnecting_running_tasks_still_end(
    pool: str, rabbitmq: RabbitMQ, rabbitmq_url: str, scene: MakeScene
) -> None:
    there = scene("rabbitmq", worker=worker_settings(pool))
    with Proxy(rabbitmq.port) as proxy, there.worker(broker={"url": through(proxy, rabbitmq, there.url)}) as worker:
        there.send("work", 2.0)
        begun(there, 1)
        proxy.refuse()
        proxy.cut()
        worker.wait_for_line("Cannot connect")
        assert worker.stop() == EXIT_OK
    assert len(there.ids("end")) == 1
    wait_until(lambda: there.waiting() == 1, what="its ack was lost with the connection")


@pytest.mark.parametrize("pool", FULL_BUT_GEVENT)
def test_on_a_frozen_connection(pool: str, rabbitmq: RabbitMQ, rabbitmq_url: str, scene: MakeScene) -> None:
    there = scene("rabbitmq", worker=worker_settings(pool, shutdown_timeout="1s"))
    with Proxy(rabbitmq.port) as proxy, there.worker(broker={"url": through(proxy, rabbitmq, there.url)}) as worker:
        there.send("work", 0.5)
        begun(there, 1)
        proxy.freeze()
        code, took = timed_stop(worker)
    assert code == EXIT_OK, "the task has ended; that its ack did not arrive, nobody could know"
    assert took < STOP_TIMEOUT + 2.0


def through(proxy: Proxy, rabbitmq: RabbitMQ, url: str) -> str:
    return url.replace(f":{rabbitmq.port}/", f":{proxy.port}/")


# --- at any moment of the start -----------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, pytest.param(signal.SIGQUIT, marks=full)])
@pytest.mark.parametrize("pool", ["gevent", pytest.param("threads", marks=full)])
def test_signal_while_it_starts(pool: str, signum: signal.Signals, tmp_path: Path) -> None:
    there = Scene(tmp_path, sqlite_url(tmp_path), worker=worker_settings(pool))
    for delay in (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8):
        worker = there.worker()
        worker.launch()
        time.sleep(delay)  # the moment is what is tested: there is no event to wait for
        try:
            code, took = timed_stop(worker, signum)
        finally:
            worker.kill()
        # Before the handlers are there it is the signal's default; with INT, before our first line, whatever the
        # interpreter makes of its KeyboardInterrupt.
        expected = {EXIT_OK, -signum} | ({1, 130} if signum is signal.SIGINT else set())
        assert code in expected, f"after {delay} s: {code}\n{worker.output}"
        assert took < 3.0
