"""The results store is away, or the worker dies beside it: acks wait, consuming pauses, nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from greenworker.errors import EXIT_PUT_BACK
from greenworker.protocol.results import SUCCESS
from tests.conftest import skip_or_fail
from tests.support import redis_server
from tests.support.fault_scenes import Scene, counted
from tests.support.proxy import Proxy
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis_server import RedisServer, client
from tests.support.worker import Worker, wait_until

MakeScene = Callable[..., Scene]
full = pytest.mark.full
PAUSED, GOES_ON = "no new tasks are taken", "new tasks are taken"
POOLS = ["gevent", *(pytest.param(pool, marks=full) for pool in ("threads", "eventlet", "solo"))]


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """The results store, which keeps over a crash what it has confirmed."""
    skip_or_fail(request, redis_server.missing())
    with RedisServer(tmp_path / "redis", append_only=True) as server:
        yield server


def stored_ids(store: RedisServer) -> set[str]:
    connection = client(store.url())
    keys = [key.decode() for key in connection.keys("celery-task-meta-*")]
    documents = connection.mget(keys) if keys else []
    found = zip(keys, documents, strict=True)
    return {key.removeprefix("celery-task-meta-") for key, text in found if f'"{SUCCESS}"'.encode() in text}


def unacked(rabbitmq: RabbitMQ, url: str) -> int:
    vhost = url.rpartition("/")[2]
    counts = f'rabbit_amqqueue:info_all(<<"{vhost}">>, [messages_unacknowledged])'
    return int(rabbitmq.evaluate(f"lists:sum([N || [{{messages_unacknowledged, N}}] <- {counts}])."))


@pytest.mark.parametrize("pool", POOLS)
def test_tasks_finish_while_the_store_is_away_and_their_acks_wait(
    pool: str, store: RedisServer, rabbitmq: RabbitMQ, make_scene: MakeScene
) -> None:
    scene = make_scene(
        "classic", results=store.url(), worker={"pool": pool, "concurrency": 1 if pool == "solo" else 20}
    )
    count = 2 if pool == "solo" else 40  # the whole prefetch
    with scene.worker() as worker:
        store.kill()
        ids = scene.send("work", count=count)
        wait_until(lambda: len(scene.ids("end")) == count, what="every task ended")
        worker.wait_for_line("results are not stored yet")
        wait_until(lambda: unacked(rabbitmq, scene.url) == count, what="the broker's count of unacked messages")
        store.start()
        wait_until(lambda: stored_ids(store) == set(ids), what="every result stored")
        wait_until(lambda: unacked(rabbitmq, scene.url) == 0, what="every ack")
        assert scene.waiting() == 0
        assert worker.stop() == 0
        assert "Connection to the broker lost" not in worker.output
    assert counted(scene.ids("begin")) == {}


def test_consuming_pauses_at_the_bound_and_goes_on(
    store: RedisServer, rabbitmq: RabbitMQ, make_scene: MakeScene
) -> None:
    """Tasks that are acked early hold no prefetch: only the bound of what waits here can stop them."""
    in_memory, in_file, concurrency, prefetch = 20, 30, 4, 8
    scene = make_scene(
        "classic",
        results=store.url(),
        worker={"concurrency": concurrency},
        broker={"heartbeat": "2s"},
    )
    sections = {"results": {"buffer_limit": in_memory, "spill_bytes": f"{in_file * 4}KiB"}}
    with scene.worker(**sections) as worker:
        store.kill()
        ids = scene.send("early", 0.0, count=400)
        worker.wait_for_line(PAUSED)
        most = in_memory + in_file + 1 + 2 * prefetch + concurrency
        settled = settles(lambda: len(scene.ids("end")))
        assert in_memory + in_file < settled <= most
        assert scene.waiting() == len(ids) - settled, "the rest is where others can take it"
        time_to_miss_heartbeats = time.monotonic() + 5.0
        wait_until(lambda: time.monotonic() > time_to_miss_heartbeats)  # the loop must go on all the while
        assert len(scene.ids("end")) == settled
        store.start()
        worker.wait_for_line(rf"again: {GOES_ON}")
        wait_until(lambda: set(scene.ids("end")) == set(ids), 30.0, "every task ended")
        wait_until(lambda: stored_ids(store) == set(ids), what="every result stored")
        assert worker.stop() == 0
        assert "Connection to the broker lost" not in worker.output
    assert counted(scene.ids("begin")) == {}
    assert list(scene.folder.glob("state/*")) == [], "nothing is left of the spill"


def settles(count: Callable[[], int]) -> int:
    """``count()`` when it has not changed for half a second."""
    seen: list[tuple[float, int]] = []

    def still() -> bool:
        seen.append((time.monotonic(), count()))
        recent = [number for at, number in seen if at > seen[-1][0] - 0.5]
        return seen[-1][0] - seen[0][0] > 0.5 and len(set(recent)) == 1

    wait_until(still, 20.0, "the count to settle")
    return seen[-1][1]


def test_a_worker_killed_between_store_and_ack_runs_the_task_again(
    store: RedisServer, rabbitmq: RabbitMQ, make_scene: MakeScene
) -> None:
    scene = make_scene("classic", results=store.url(), worker={"concurrency": 10})
    with Proxy(rabbitmq.port) as proxy:
        through = {"url": scene.url.replace(f":{rabbitmq.port}/", f":{proxy.port}/")}
        with scene.worker(broker=through) as first:
            ids = scene.send("work", 0.5, count=10)
            wait_until(lambda: len(scene.ids("begin")) == 10, what="every task running")
            proxy.freeze()  # results get through, acks do not
            wait_until(lambda: stored_ids(store) == set(ids), what="every result stored")
            first.kill()
            proxy.cut()  # with the acks in it
    with scene.worker("second"):
        wait_until(lambda: len(scene.ids("end")) == 20, what="every task ended again")
        wait_until(lambda: unacked(rabbitmq, scene.url) == 0 and scene.waiting() == 0, what="every ack")
    assert stored_ids(store) == set(ids)


def test_a_worker_killed_while_results_wait_runs_the_tasks_again(
    store: RedisServer, rabbitmq: RabbitMQ, make_scene: MakeScene
) -> None:
    scene = make_scene("classic", results=store.url(), worker={"concurrency": 20})
    store.kill()
    with scene.worker(results={"buffer_limit": 5}) as first:
        ids = scene.send("work", count=40)
        wait_until(lambda: len(scene.ids("end")) == 40, what="every task ended")
        first.kill()
    store.start()
    assert stored_ids(store) == set()
    with scene.worker("second"):
        wait_until(lambda: stored_ids(store) == set(ids), what="every result stored")
        wait_until(lambda: unacked(rabbitmq, scene.url) == 0 and scene.waiting() == 0, what="every ack")


def test_a_worker_that_is_stopped_while_results_wait_ends_in_time_and_loses_nothing(
    store: RedisServer, rabbitmq: RabbitMQ, make_scene: MakeScene
) -> None:
    scene = make_scene("classic", results=store.url(), worker={"concurrency": 10, "shutdown_timeout": "1s"})
    with scene.worker() as first:
        store.kill()
        ids = scene.send("work", count=10)
        wait_until(lambda: len(scene.ids("end")) == 10, what="every task ended")
        begun = time.monotonic()
        assert first.stop(timeout=25.0) == EXIT_PUT_BACK
        assert time.monotonic() - begun < 20
        assert "10 results are not stored" in first.output
    store.start()
    with scene.worker("second"):
        wait_until(lambda: stored_ids(store) == set(ids), what="every result stored")
        wait_until(lambda: unacked(rabbitmq, scene.url) == 0 and scene.waiting() == 0, what="every ack")


@pytest.mark.parametrize("pool", ["gevent", pytest.param("eventlet", marks=full)])
def test_killed_worker_and_killed_store_lose_no_result(
    pool: str, store: RedisServer, rabbitmq: RabbitMQ, make_scene: MakeScene
) -> None:
    """Both are killed under load, in turn; in the end every task has its result."""
    scene = make_scene("classic", results=store.url(), worker={"pool": pool, "concurrency": 40})
    ids: list[str] = []
    for turn in range(3):
        with scene.worker(f"worker{turn}") as worker:
            ids += scene.send("work", 0.05, count=300)
            half = len(ids) // 2
            wait_until(lambda half=half: len(set(scene.ids("end"))) >= half, 30.0, "half of the tasks ended")  # type: ignore[misc]
            store.kill()
            settles(lambda: len(scene.ids("end")))
            if turn % 2:
                store.start()
            worker.kill()
        if not turn % 2:
            store.start()
    with scene.worker("last"):
        wait_until(lambda: stored_ids(store) == set(ids), 40.0, "every result stored")
        wait_until(lambda: unacked(rabbitmq, scene.url) == 0 and scene.waiting() == 0, what="every ack")


def test_a_result_that_is_refused_is_acked_as_a_failure(
    store: RedisServer, rabbitmq: RabbitMQ, tmp_path: Path, make_scene: MakeScene
) -> None:
    store.options["proto-max-bulk-len"] = "1mb"
    store.restart()
    scene = make_scene("classic", results=store.url())
    ini = {"broker": {"url": scene.url}, "results": {"url": store.url()}}
    with Worker(tmp_path, app="tests.support.result_tasks_ours:app", ini=ini, name="results") as worker:
        huge = scene.client.send_task("results.give_many", [2_000_000])
        small = scene.client.send_task("results.give_many", [2])
        assert small.get(timeout=10) == "éé"
        with pytest.raises(Exception, match="bytes at most"):
            huge.get(timeout=10)
        assert huge.state == "FAILURE"
        assert huge.id in worker.output
        wait_until(lambda: unacked(rabbitmq, scene.url) == 0 and scene.waiting() == 0, what="every ack")
