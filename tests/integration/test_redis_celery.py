"""greenworker and Celery on the same queues in the same Redis: clients, workers, priorities, what the dead leave."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import kombu
import pytest

from greenworker.broker.delivery import QueueSpec
from tests.support.celery_worker import CeleryWorker
from tests.support.redis_scenes import Consumer, Keys, consuming, open_publisher, outgoing, publish
from tests.support.shared_scene import SharedScene
from tests.support.shared_tasks import VISIBILITY_TIMEOUT
from tests.support.worker import wait_until


class Scene(SharedScene):
    """On one Redis database, whose keys are looked at."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder, url)
        self.keys = Keys(url)


@pytest.fixture
def scene(tmp_path: Path, redis_url: str) -> Iterator[Scene]:
    scene = Scene(tmp_path, redis_url)
    yield scene
    scene.close()


def test_celerys_client_sends_and_greenworker_runs_by_kombus_priorities(scene: Scene) -> None:
    """On Redis 0 goes first, and there are four steps."""
    sent = [(priority, number) for number, priority in enumerate([9, 0, 5, 3, 6, 1, 8, 2, 7, 4] * 3)]
    for priority, number in sent:
        scene.celery.send_task("shared.note", [number], priority=priority)
    with scene.greenworker(concurrency=1, prefetch_multiplier=1):
        wait_until(lambda: len(scene.numbers("end")) == len(sent), what="all run")
    steps = {number: priority // 3 for priority, number in sent}
    assert scene.numbers("end") == [number for _, number in sorted(sent, key=lambda item: (steps[item[1]], item[1]))]
    assert scene.keys.unacked == scene.keys.waiting("celery") == 0


@pytest.mark.parametrize(
    "pool", ["threads", pytest.param("gevent", marks=pytest.mark.full), pytest.param("solo", marks=pytest.mark.full)]
)
def test_our_client_sends_and_celerys_worker_runs(scene: Scene, pool: str) -> None:
    with scene.celery_worker(pool):
        for number in range(30):
            scene.ours.send_task("shared.note", [number], priority=number % 10)
        scene.ours.send_task("shared.note", [30], countdown=1)
        wait_until(lambda: sorted(scene.numbers("end")) == list(range(31)), what="all run")
        wait_until(lambda: scene.keys.unacked == 0, what="all acked")


def test_both_kinds_of_workers_share_a_queue(scene: Scene) -> None:
    with scene.celery_worker(), scene.greenworker(prefetch_multiplier=1):
        for number in range(200):
            client = scene.celery if number % 2 else scene.ours
            client.send_task("shared.hold", [number, 0.02])
        wait_until(lambda: len(scene.numbers("end")) >= 200, 30.0, "all run")
        wait_until(lambda: scene.keys.unacked == 0)
    assert Counter(scene.numbers("end")) == dict.fromkeys(range(200), 1)
    assert scene.numbers("end", "celery") and scene.numbers("end", "greenworker")


@pytest.mark.full
@pytest.mark.timeout(120)
@pytest.mark.parametrize("pool", ["threads", "gevent", "solo"])
def test_both_kinds_of_workers_killed_in_turn_lose_nothing(scene: Scene, pool: str) -> None:
    """Each is killed three times at its work, and started anew; every task runs, and few of them twice."""
    kills = 6
    # Celery's green workers look for what a dead one had at every tenth empty poll alone, which may take a minute.
    timeouts = {"lease_timeout": "1s", "visibility_timeout": "5s"}
    with contextlib.ExitStack() as workers:
        ours = workers.enter_context(scene.greenworker("one", **timeouts))
        theirs = workers.enter_context(scene.celery_worker(pool))
        for kill in range(kills):
            scene.wait_for_work(8, 0.2)
            if kill % 2:
                kill_between_pops(scene, theirs)
                theirs = workers.enter_context(scene.celery_worker(pool, name=f"celery{kill}"))
            else:
                ours.kill()
                ours = workers.enter_context(scene.greenworker(f"worker{kill}", **timeouts))
        wait_until(lambda: set(scene.numbers("end")) == set(range(scene.held)), 60.0, "all run")
        wait_until(lambda: scene.keys.unacked == scene.keys.waiting("celery") == 0, 10.0, "all acked")
    twice = [number for number, times in Counter(scene.numbers("begin")).items() if times > 1]
    assert len(twice) <= kills * 8, "a worker runs four at once; as many acks may be on their way"
    print(f"{pool}: {len(twice)} of {scene.held} ran twice after {kills} kills")


def kill_between_pops(scene: Scene, worker: CeleryWorker) -> None:
    """Kill a Celery worker at a moment in which no message is in its window: popped, and not in ``unacked`` yet.

    A message in there is lost with the process, whoever else consumes. So the worker is stopped first, and goes on if
    one of the messages that were sent is nowhere.
    """

    def killed() -> bool:
        worker.send(signal.SIGSTOP)
        there = {json.loads(envelope.body)[0][0] for envelope in scene.keys.messages("celery")}
        if there | set(scene.numbers("end")) == set(range(scene.held)):
            worker.kill()
            return True
        worker.send(signal.SIGCONT)
        return False

    wait_until(killed, 20.0, "a moment in which the Celery worker holds no message that is not in unacked")


def test_messages_of_a_killed_greenworker_go_back_to_a_greenworker(scene: Scene) -> None:
    with scene.greenworker("one", lease_timeout="2s") as one:
        for number in range(12):
            scene.celery.send_task("shared.hold", [number, 0.5])
        wait_until(lambda: len(scene.numbers("begin")) >= 4)
        one.kill()
    done = set(scene.numbers("end"))
    with scene.greenworker("two", lease_timeout="2s"):
        wait_until(lambda: set(scene.numbers("end")) == set(range(12)), 15.0, "all run")
        wait_until(lambda: scene.keys.unacked == 0)
    twice = {number for number, times in Counter(scene.numbers("begin")).items() if times > 1}
    assert len(twice) <= 8 and not twice & done, "what had ended was acked, what had not begun did not run twice"
    assert not [key for key in scene.keys.left() if not key.startswith("_kombu.")]


def test_messages_of_a_killed_greenworker_go_back_to_celery_after_celerys_timeout(scene: Scene) -> None:
    with scene.greenworker() as one:
        for number in range(6):
            scene.celery.send_task("shared.hold", [number, 60])
        wait_until(lambda: len(scene.numbers("begin")) == 4 and scene.keys.unacked == 6)
        one.kill()
    # Celery's worker would hold them for a minute, too: what it takes up is enough to see.
    with scene.celery_worker() as worker:
        wait_until(lambda: len(scene.numbers("begin", "celery")) == 4, VISIBILITY_TIMEOUT + 20.0, "Celery takes over")
        worker.kill()


def test_what_a_greenworker_holds_is_not_celerys_to_restore(scene: Scene) -> None:
    """It is renewed all the time, where Celery's own would run a second time."""
    with scene.greenworker("one", lease_timeout="3s"):
        for number in range(6):  # some run, some are prefetched
            scene.ours.send_task("shared.hold", [number, VISIBILITY_TIMEOUT + 2.0])
        wait_until(lambda: scene.keys.unacked == 6)
        with scene.celery_worker():
            wait_until(lambda: len(scene.numbers("end")) >= 6, 40.0, "all run")
    assert scene.numbers("begin", "celery") == []
    assert Counter(scene.numbers("begin")) == dict.fromkeys(range(6), 1)


def test_messages_of_a_killed_celery_worker_go_back_after_celerys_timeout_alone(scene: Scene) -> None:
    with scene.celery_worker() as worker:
        for number in range(6):
            scene.celery.send_task("shared.hold", [number, 60])
        wait_until(lambda: len(scene.numbers("begin")) == 4 and scene.keys.unacked == 6)
        worker.kill()
    killed_at = time.monotonic()
    with consuming(scene.url, [QueueSpec("celery")], lease_timeout=1.0, visibility_timeout=5.0) as consumer:
        consumer.take(6, timeout=15.0)
        assert time.monotonic() - killed_at > 3.0
        consumer.ack_all()


def test_kombu_restores_what_we_took_and_reads_it(scene: Scene) -> None:
    """Our entries in unacked are kombu's: its own sweep puts them back, marked, and its consumer reads them."""
    publish(scene.url, [1, 2], QueueSpec("a", exchange="x", exchange_type="topic", routing_key="a.#"), priority=6)
    dead = Consumer(scene.url, [QueueSpec("a")])
    dead.take(2)
    dead.die()
    scene.keys.redis.zadd("unacked_index", dict.fromkeys(scene.keys.redis.hkeys("unacked"), 1.0))
    with kombu.Connection(scene.url) as connection:
        channel = connection.channel()
        channel.qos.restore_visible(interval=1)
        assert scene.keys.waiting("a") == 2
        messages = [channel.basic_get("a") for _ in range(2)]
        assert {message.headers["id"] for message in messages} == {"1", "2"}
        assert all(message.headers["redelivered"] for message in messages)
        for message in messages:
            message.ack()
    assert scene.keys.unacked == 0


def test_bindings_that_kombu_declares_are_ours_and_ours_are_kombus(scene: Scene) -> None:
    exchange = kombu.Exchange("shop", type="topic")
    with kombu.Connection(scene.url) as connection:
        kombu.Queue("theirs", exchange, routing_key="orders.#", channel=connection.channel()).declare()
        publisher = open_publisher(scene.url)
        ours = QueueSpec("ours", exchange="shop", exchange_type="topic", routing_key="*.new")
        message = outgoing(1, ours)
        publisher.publish([type(message)(message.envelope, "orders.new", exchange="shop", queue=ours)])
        assert (scene.keys.waiting("theirs"), scene.keys.waiting("ours")) == (1, 1)
        kombu.Producer(connection.channel(), exchange).publish({}, routing_key="orders.new")
        assert (scene.keys.waiting("theirs"), scene.keys.waiting("ours")) == (2, 2)
        publisher.close()
