"""Connections cut, frozen or refused, brokers that die: nothing is lost, running tasks go on, nothing grows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import rabbitmq as rabbitmq_support
from tests.support.fault_scenes import Scene, counted
from tests.support.proxy import Proxy
from tests.support.rabbitmq import RabbitMQ, free_port
from tests.support.worker import Worker, wait_until

MakeScene = Callable[..., Scene]
CUTS = 5
LOAD = 600  # tasks sent before each cut: more than run until the next, so that none comes when all is done
CONCURRENCY = 50
AGAIN = "Connected again"
LOST = "Connection to the broker lost"
full = pytest.mark.full


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[Proxy]:
    with Proxy(rabbitmq.port) as between:
        yield between


def through(proxy: Proxy, rabbitmq: RabbitMQ, url: str) -> str:
    return url.replace(f":{rabbitmq.port}/", f":{proxy.port}/")


@pytest.mark.parametrize(
    ("pool", "kind"),
    [
        ("gevent", "classic"),
        pytest.param("gevent", "quorum", marks=full),
        pytest.param("eventlet", "classic", marks=full),
        pytest.param("threads", "classic", marks=full),
        pytest.param("eventlet", "quorum", marks=full),
        pytest.param("threads", "quorum", marks=full),
    ],
)
def test_cuts_under_load(pool: str, kind: str, proxy: Proxy, rabbitmq: RabbitMQ, make_scene: MakeScene) -> None:
    scene = make_scene(kind, worker={"pool": pool, "concurrency": CONCURRENCY})
    with scene.worker(broker={"url": through(proxy, rabbitmq, scene.url)}) as worker:
        long = scene.send("work", 5.5, count=5)
        wait_until(lambda: len(scene.ids("begin")) == 5, what="the long tasks running")
        ids, slowest = [], 0.0
        for number in range(1, CUTS + 1):
            next_cut_at = time.monotonic() + 1.0
            ids += scene.send("work", 0.1, count=LOAD)
            ended = len(scene.ids("end"))
            began = time.monotonic()
            proxy.cut()
            worker.wait_for_line(AGAIN, count=number)
            slowest = max(slowest, time.monotonic() - began)
            has_gone_on(scene, ended + 2 * CONCURRENCY)
            time.sleep(max(0.0, next_cut_at - time.monotonic()))
        wait_until(lambda: set(scene.ids("end")) == {*long, *ids}, 30.0, "every task ended")
        wait_until(lambda: scene.waiting() == 0)
        assert worker.stop() == 0
    assert scene.waiting() == 0, "every message was acked"
    runs = Counter(scene.ids("begin"))
    extra = sum(runs.values()) - len(runs)
    print(f"{pool}, {kind}: {extra} extra runs of {len(runs)} in {CUTS} cuts, again after at most {slowest:.2f} s")
    assert all(runs[each] == 1 for each in long), "running tasks went on, and their redeliveries joined them"
    assert extra == 0, (
        f"what had finished when its ack was lost was acked, not run again: {counted(scene.ids('begin'))}"
    )
    assert slowest < 1.5


@pytest.mark.parametrize("pool", ["gevent", pytest.param("eventlet", marks=full), pytest.param("threads", marks=full)])
def test_frozen_longer_than_the_heartbeat(pool: str, proxy: Proxy, rabbitmq: RabbitMQ, make_scene: MakeScene) -> None:
    scene = make_scene("classic", worker={"pool": pool, "concurrency": 10}, broker={"heartbeat": "2s"})
    with scene.worker(broker={"url": through(proxy, rabbitmq, scene.url), "connect_timeout": "1s"}) as worker:
        ids = scene.send("work", 0.2, count=20) + scene.send("work", 7.0, count=2)
        wait_until(lambda: len(scene.ids("begin")) >= 3, what="load")
        proxy.freeze()
        worker.wait_for_line(LOST, 2.0 * 3 + 1.0)
        proxy.resume()
        worker.wait_for_line(AGAIN, 5.0)
        wait_until(lambda: set(scene.ids("end")) == set(ids), 20.0, "every task ended")
        assert worker.stop() == 0
    assert scene.waiting() == 0
    assert not set(counted(scene.ids("begin"))) & set(ids[-2:]), "the running tasks went on"


def test_failover_list(proxy: Proxy, rabbitmq: RabbitMQ, make_scene: MakeScene) -> None:
    scene = make_scene("classic", worker={"pool": "gevent"})
    dead = f"amqp://guest:guest@127.0.0.1:{free_port()}/nowhere"
    with (
        Proxy(rabbitmq.port) as second,
        scene.worker(
            broker={"url": f"{dead} {through(proxy, rabbitmq, scene.url)} {through(second, rabbitmq, scene.url)}"}
        ) as worker,
    ):
        assert "Cannot connect" in worker.output
        assert (proxy.accepted, second.accepted) == (1, 0)
        proxy.refuse()
        proxy.cut()
        worker.wait_for_line(AGAIN)
        assert second.accepted == 1
        (task,) = scene.send("work")
        wait_until(lambda: scene.ids("end") == [task], what="the task")


@pytest.mark.parametrize("pool", ["gevent", pytest.param("threads", marks=full)])
def test_broker_that_comes_up_after_the_worker(
    pool: str, proxy: Proxy, rabbitmq: RabbitMQ, make_scene: MakeScene
) -> None:
    scene = make_scene("classic", worker={"pool": pool})
    proxy.refuse()
    worker = scene.worker(broker={"url": through(proxy, rabbitmq, scene.url)})
    worker.launch()
    try:
        worker.wait_for_line("Cannot connect", 20.0, count=3)
        proxy.refuse(False)
        worker.wait_for_line(r"\bready\b")
        (task,) = scene.send("work")
        wait_until(lambda: scene.ids("end") == [task], what="the task")
        assert worker.stop() == 0
    finally:
        worker.kill()


@pytest.mark.full
@pytest.mark.skipif(rabbitmq_support.missing() is not None, reason="no RabbitMQ of its own can be started")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_broker_killed_and_started_again(pool: str, kind: str, tmp_path: Path) -> None:
    server = RabbitMQ(tmp_path / "rabbitmq")
    server.start()
    scene = Scene(
        tmp_path,
        server.url,
        worker={"pool": pool, "concurrency": 50},
        broker={"reconnect_delay_max": "1s"},
        **{"queue celery": {"type": kind}},
    )
    try:
        with scene.worker() as worker:
            # RabbitMQ 3.10 forgets a queue, and all that is in it, that it declared a moment before it was killed.
            server.evaluate("mnesia:dump_log().")
            long = scene.send("work", 5.0, count=3)
            ids = scene.send("work", 0.1, count=1_000)
            wait_until(lambda: len(scene.ids("end")) >= 200, what="load")
            server.kill()
            worker.wait_for_line(LOST)
            wait_until(lambda: set(long) <= set(scene.ids("end")), 10.0, "running tasks end without a broker")
            server.start()
            worker.wait_for_line(AGAIN, 15.0)
            wait_until(
                lambda: set(scene.ids("end")) == {*long, *ids},
                60.0,
                "every task ended",
                lambda: f"{len({*long, *ids} - set(scene.ids('end')))} are missing, {scene.waiting()} wait",
            )
            assert worker.stop() == 0
        assert scene.waiting() == 0
    finally:
        scene.close()
        server.stop()


@pytest.mark.parametrize("pool", ["gevent", "eventlet", pytest.param("threads", marks=full)])
def test_reconnects_leave_nothing_behind(pool: str, proxy: Proxy, rabbitmq: RabbitMQ, make_scene: MakeScene) -> None:
    scene = make_scene("classic", worker={"pool": pool, "concurrency": 10})
    with scene.worker(broker={"url": through(proxy, rabbitmq, scene.url)}) as worker:
        cut(proxy, worker, 1, 4)  # the first ones fill caches
        before, before_bytes = census(scene), worker.rss_bytes
        cut(proxy, worker, 4, 14)
        after, after_bytes = census(scene), worker.rss_bytes
    assert after == before, "greenlets and open files"
    assert after_bytes - before_bytes < 4 * 1024 * 1024


def has_gone_on(scene: Scene, ended: int) -> None:
    """More tasks have ended than can have run or been on their way when the connection was cut."""
    wait_until(lambda: len(scene.ids("end")) > ended, what=f"more than {ended} tasks ended")


def cut(proxy: Proxy, worker: Worker, first: int, end: int) -> None:
    for number in range(first, end):
        proxy.cut()
        worker.wait_for_line(AGAIN, count=number)


def census(scene: Scene) -> tuple[int, int]:
    """Greenlets and open files of the worker."""
    number = len(scene.ids("census"))
    scene.send("census")
    wait_until(lambda: len(scene.ids("census")) > number, what="the census")
    line = [line for line in scene.journal.lines() if line["event"] == "census"][-1]
    return line["greenlets"], line["files"]
