"""Workers on Redis that are killed, frozen or blocked, a Redis that goes away: nothing is lost, little runs twice."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from greenworker.broker.delivery import QueueSpec
from tests.support.fault_scenes import Scene, counted
from tests.support.proxy import Proxy
from tests.support.redis_scenes import Keys, consuming
from tests.support.redis_server import RedisServer
from tests.support.worker import Worker, wait_until

CONCURRENCY = 20
UNPROVEN = 0.1  # seconds before a kill in which a task may have ended whose ack was not written yet
full = pytest.mark.full


def make_scene(folder: Path, url: str, *, lease_timeout: float = 2.0, **worker: object) -> Scene:
    return Scene(
        folder,
        url,
        worker={"concurrency": CONCURRENCY, **worker},
        broker={"lease_timeout": f"{lease_timeout}s", "reconnect_delay_max": "1s"},
    )


@contextmanager
def again_and_again(call: Callable[[], object], interval: float) -> Iterator[list[float]]:
    """Call it every ``interval`` seconds meanwhile; the list has when."""
    over = threading.Event()
    called: list[float] = []

    def loop() -> None:
        while not over.wait(interval):
            called.append(time.monotonic())
            call()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield called
    finally:
        over.set()
        thread.join(10.0)


def all_ended(scene: Scene, ids: list[str], timeout: float = 40.0) -> None:
    wait_until(lambda: set(scene.ids("end")) == set(ids), timeout, "every task ended")


def nothing_left(scene: Scene) -> None:
    keys = Keys(scene.url)
    wait_until(lambda: keys.unacked == 0 and scene.waiting() == 0, what="nothing is left on the broker")


@pytest.mark.parametrize("pool", ["gevent", pytest.param("eventlet", marks=full), pytest.param("threads", marks=full)])
def test_killed_workers_lose_nothing(pool: str, tmp_path: Path, redis_url: str) -> None:
    """Three in a row, killed in the midst of their batches, then one that goes on to the end."""
    scene = make_scene(tmp_path, redis_url, pool=pool)
    ids = scene.send("work", 0.02, count=900)
    flying: set[str] = set()
    for kill in range(1, 4):
        with scene.worker() as worker:
            wait_until(lambda kill=kill: len(set(scene.ids("end"))) >= kill * 200, 30.0)  # type: ignore[misc]
            worker.kill()
        flying |= in_flight(scene.journal.lines())
    with scene.worker():
        all_ended(scene, ids)
        nothing_left(scene)
    twice = set(counted(scene.ids("begin")))
    assert twice <= flying, f"{len(twice - flying)} tasks ran again that were not in flight"
    assert len(twice) <= 3 * 4 * CONCURRENCY
    scene.close()


def in_flight(lines: list[dict[str, Any]]) -> set[str]:
    """The tasks that, when the last line was written, ran or had ended so shortly before that no ack may be out."""
    killed_at = max(line["at"] for line in lines)
    ended = {line["id"]: line["at"] for line in lines if line["event"] == "end"}
    begun = {line["id"] for line in lines if line["event"] == "begin"}
    return {each for each in begun if ended.get(each, killed_at) >= killed_at - UNPROVEN}


@pytest.mark.parametrize("pool", ["gevent", pytest.param("solo", marks=full), pytest.param("threads", marks=full)])
def test_a_task_that_outlasts_its_lease_runs_once(pool: str, tmp_path: Path, redis_url: str) -> None:
    """Running, waiting for a slot or prefetched; the solo pool's loop is blocked by the task meanwhile."""
    scene = make_scene(tmp_path, redis_url, lease_timeout=1.0, pool=pool, concurrency=1)
    with scene.worker("one"), scene.worker("two"):
        ids = scene.send("work", 3.0, count=4)
        all_ended(scene, ids)
        nothing_left(scene)
    assert counted(scene.ids("begin")) == {}
    scene.close()


def test_a_task_waiting_for_its_eta_keeps_its_lease(tmp_path: Path, redis_url: str) -> None:
    scene = make_scene(tmp_path, redis_url, lease_timeout=1.0)
    with scene.worker("one"), scene.worker("two"):
        ids = scene.send("work", count=10, countdown=3)
        wait_until(lambda: Keys(redis_url).unacked == 10)
        all_ended(scene, ids)
        nothing_left(scene)
    assert counted(scene.ids("begin")) == {}
    scene.close()


def test_a_worker_that_stands_still_is_taken_over_from_and_learns_of_it(tmp_path: Path, redis_url: str) -> None:
    scene = make_scene(tmp_path, redis_url, concurrency=2)
    with scene.worker("one") as one:
        ids = scene.send("work", 0.5, count=12)
        wait_until(lambda: len(scene.ids("begin")) >= 2)
        one.send(signal.SIGSTOP)
        with scene.worker("two"):
            all_ended(scene, ids)
            one.send(signal.SIGCONT)
            one.wait_for_line("Redis has no session of this consumer any more")
            more = scene.send("work", 0.1, count=8)
            all_ended(scene, ids + more)
            nothing_left(scene)
        assert one.stop() == 0
    assert set(counted(scene.ids("begin"))) <= set(ids)
    # What ran when it stood still, and what freed slots began before the loop had a look at its lease.
    assert len(counted(scene.ids("begin"))) <= 4
    scene.close()


def test_a_worker_whose_loop_is_blocked_is_taken_over_from(tmp_path: Path, redis_url: str) -> None:
    scene = make_scene(tmp_path, redis_url, concurrency=4)
    with scene.worker() as worker:
        scene.send("spin")
        wait_until(lambda: scene.ids("begin"))
        scene.send("work", count=20)
        with consuming(redis_url, [QueueSpec("celery")]) as heir:
            assert {delivery.envelope.headers["task"] for delivery in heir.take(21)} == {"faults.spin", "faults.work"}
            heir.ack_all()
        worker.kill()
    scene.close()


@pytest.mark.parametrize("pool", ["gevent", pytest.param("eventlet", marks=full), pytest.param("threads", marks=full)])
def test_redis_killed_and_restarted_loses_and_doubles_nothing(pool: str, tmp_path: Path) -> None:
    """With its data on the disk the session lives on: what runs meanwhile is acked when Redis is back."""
    with RedisServer(tmp_path / "redis", append_only=True) as server:
        scene = make_scene(tmp_path, server.url(), lease_timeout=20.0, pool=pool)
        with scene.worker() as worker:
            ids = scene.send("work", 0.05, count=700)
            for restart in range(1, 4):
                wait_until(lambda restart=restart: len(scene.ids("end")) >= restart * 200, 30.0)  # type: ignore[misc]
                server.kill()
                time.sleep(0.5)  # Redis is away for a while
                server.start()
            all_ended(scene, ids)
            nothing_left(scene)
            assert worker.output.count("broke, connecting again") == worker.output.count("again, after") == 3
            assert worker.stop() == 0
        assert counted(scene.ids("begin")) == {}
        scene.close()


def test_a_redis_that_has_lost_everything_is_started_on_anew(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        scene = make_scene(tmp_path, server.url(), lease_timeout=20.0)
        with scene.worker() as worker:
            scene.send("work", 1.0, count=5)
            wait_until(lambda: len(scene.ids("begin")) == 5)
            server.kill()
            server.start()
            worker.wait_for_line("Redis has no session of this consumer any more")
            ids = scene.send("work", count=20)
            wait_until(lambda: set(ids) <= set(scene.ids("end")), 20.0)
            nothing_left(scene)
            assert worker.stop() == 0
        scene.close()


@full
def test_redis_away_at_the_start_and_for_longer_than_a_lease(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", append_only=True)
    server.start()
    scene = make_scene(tmp_path, server.url(), lease_timeout=1.0)
    ids = scene.send("work", 0.1, count=300)
    server.kill()
    worker = scene.worker()
    worker.launch()
    worker.wait_for_line("Cannot connect to broker redis://")
    server.start()
    wait_until(lambda: len(scene.ids("end")) >= 50, 20.0)
    server.kill()
    worker.wait_for_line("no connection to Redis for")
    server.start()
    all_ended(scene, ids)
    nothing_left(scene)
    assert worker.stop() == 0
    server.stop()
    scene.close()


@pytest.mark.parametrize("pool", ["gevent", pytest.param("eventlet", marks=full), pytest.param("solo", marks=full)])
def test_cut_lines_lose_and_double_nothing(pool: str, tmp_path: Path, redis_url: str) -> None:
    """Takes, acks and retries whose fate is unknown, again and again."""
    host, _, database = redis_url.rpartition("/")
    with Proxy(int(host.rpartition(":")[2])) as proxy:
        direct = make_scene(tmp_path, redis_url)
        scene = make_scene(
            tmp_path, f"redis://127.0.0.1:{proxy.port}/{database}", lease_timeout=20.0, pool=pool, concurrency=20
        )
        with scene.worker() as worker:
            ids = direct.send("work", 0.005, count=500)
            with again_and_again(proxy.cut, 0.2) as cuts:
                wait_until(lambda: len(set(direct.ids("end"))) >= 450, 40.0, "most tasks ended")
            all_ended(direct, ids)
            nothing_left(direct)
            assert worker.stop() == 0
        assert counted(direct.ids("begin")) == {}
        print(f"{pool}: {len(cuts)} cuts")
        scene.close()
        direct.close()


def test_retries_and_dead_letters_over_cut_lines_are_there_once(tmp_path: Path, redis_url: str) -> None:
    host, _, database = redis_url.rpartition("/")
    with Proxy(int(host.rpartition(":")[2])) as proxy:
        notes = tmp_path / "journal"
        ini = {
            "worker": {"concurrency": 20},
            "broker": {"url": f"redis://127.0.0.1:{proxy.port}/{database}", "lease_timeout": "20s"},
            "results": {"url": "none"},
        }
        direct = make_scene(tmp_path, redis_url)
        with Worker(
            tmp_path, app="tests.support.mixed_tasks:app", ini=ini, environ={"TASK_JOURNAL": str(notes)}
        ) as worker:
            with again_and_again(proxy.cut, 0.3):
                for _ in range(100):
                    direct.client.send_task("mixed.flaky", [2])
                    direct.client.send_task("mixed.reject")
                wait_until(lambda: direct.waiting("celery.dead") == 100, 40.0, "all dead letters")
                wait_until(lambda: len(direct.journal.lines()) >= 400, 40.0, "all tries")
            wait_until(lambda: Keys(redis_url).unacked == 0 and direct.waiting() == 0, 20.0)
            assert worker.stop() == 0
        lines = direct.journal.lines()
        flaky = [(line["id"], line["retries"]) for line in lines if line["task"] == "mixed.flaky"]
        assert len(flaky) == len(set(flaky)) == 300
        assert direct.waiting("celery.dead") == 100
        direct.close()


def test_a_shutdown_puts_back_what_has_not_begun_in_order(tmp_path: Path, redis_url: str) -> None:
    scene = make_scene(tmp_path, redis_url, concurrency=2, prefetch_multiplier=10, shutdown_timeout="300ms")
    with scene.worker() as worker:
        ids = scene.send("work", 60.0, count=30)
        wait_until(lambda: len(scene.ids("begin")) == 2)
        assert worker.stop() == 75
    assert scene.waiting() == 30
    with scene.worker(worker={"concurrency": 30}) as worker:
        wait_until(lambda: len(scene.ids("begin")) == 32)
        assert scene.ids("begin")[2:] == ids
        worker.kill()
    scene.close()
