"""In which order, and how soon, messages of several queues are started: by a real worker, from a filled broker.

Tasks leave the name of their queue in a journal, so that its lines are the order in which they started.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

import psutil
import pytest

from greenworker.broker.delivery import QueueSpec
from tests.support.load_scene import BROKERS, LoadScene, open_scene
from tests.support.worker import wait_until

POOLS = ("gevent", "eventlet", "threads", "solo")
SLOTS, MULTIPLIER = 10, 2
PREFETCH = SLOTS * MULTIPLIER
ONE, TWO, THREE = QueueSpec("one"), QueueSpec("two"), QueueSpec("three")

# The shortest wait that anything between a message and its ack could be bound by, if it polled: Celery's loop waits
# 0.1 s, ours (evloop.LONGEST_WAIT, upkeep.UPKEEP_INTERVAL, the replacer) a second.
SHORTEST_POLL = 0.1

Told = Callable[[str], None]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Prints a figure past pytest's capture."""

    def tell(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}", end="", flush=True)

    return tell


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scene(broker: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LoadScene]:
    with open_scene(broker, tmp_path, request) as scene:
        yield scene


@pytest.mark.parametrize("pool", ["gevent", pytest.param("threads", marks=pytest.mark.full)])
def test_weights(pool: str, scene: LoadScene, broker: str, told: Told) -> None:
    """1,000 wait in each of two queues weighted 3 to 1: 750 to 250 of the first 1,000, and nearly so all along."""
    waiting, heavy, light = 1_000, QueueSpec("heavy", weight=3), QueueSpec("light")
    scene.fill_with_marks(waiting, light, heavy)
    with scene.worker(
        queues=[light, heavy],
        queue_order="weighted",
        pool=pool,
        concurrency=SLOTS,
        prefetch_multiplier=MULTIPLIER,
    ) as worker:
        wait_until(lambda: scene.count() == 2 * waiting, 30.0, "all have run")
        assert worker.stop() == 0
    starts = scene.marks()
    assert (starts.count("heavy"), starts.count("light")) == (waiting, waiting)
    heavies = list(accumulate(name == "heavy" for name in starts[:1_000]))
    worst = max(abs(count - 0.75 * number) for number, count in enumerate(heavies, 1))
    told(f"{broker}, {pool}: {heavies[-1]} to {1_000 - heavies[-1]}, at most {worst:.0f} off on the way")
    assert abs(heavies[-1] - 750) <= PREFETCH
    assert worst <= 3 * PREFETCH  # a broker that stands still costs the others' prefetch, and it is made up for


def test_strict_order(scene: LoadScene) -> None:
    """Each queue is empty before the next one in the list begins, but for what was fetched in advance."""
    waiting = 300
    scene.fill_with_marks(waiting, THREE, TWO, ONE)
    with scene.worker(
        queues=[ONE, TWO, THREE], queue_order="strict", concurrency=SLOTS, prefetch_multiplier=MULTIPLIER
    ) as worker:
        wait_until(lambda: scene.count() == 3 * waiting, 30.0, "all have run")
        assert worker.stop() == 0
    starts = scene.marks()
    for index, name in enumerate(["one", "two", "three"]):
        assert starts.count(name) == waiting
        # Twice: a broker that stands still for longer than anybody waits for it lets a prefetch of the others through.
        assert starts.index(name) >= index * waiting - 2 * PREFETCH, f"{name} began too early"
        assert starts[: (index + 1) * waiting + 2 * PREFETCH].count(name) == waiting, f"{name} was held up"


@pytest.mark.parametrize("broker", ["sqlite"])  # RabbitMQ's: test_celery_client_priority
def test_priorities_in_a_queue(scene: LoadScene) -> None:
    """A higher number starts first, whatever was sent first."""
    waiting, priorities = 100, [3, 9, 0, 6]
    for priority in priorities:
        scene.fill("mark", waiting, args=[str(priority)], priority=priority)
    with scene.worker(concurrency=SLOTS, prefetch_multiplier=MULTIPLIER) as worker:
        wait_until(lambda: scene.count() == waiting * len(priorities), 30.0, "all have run")
        assert worker.stop() == 0
    starts = [int(mark) for mark in scene.marks()]
    expected = sorted(starts, reverse=True)
    assert expected == [priority for priority in sorted(priorities, reverse=True) for _ in range(waiting)]
    for priority in priorities:
        assert abs(starts.index(priority) - expected.index(priority)) <= PREFETCH, f"priority {priority}"


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        (["-Q", "two,three"], {"two", "three"}),
        (["-X", "two"], {"one", "three"}),
        (["-Q", "one,two", "-X", "one"], {"two"}),
    ],
    ids=["only two", "all but one", "both"],
)
@pytest.mark.parametrize("broker", ["sqlite"])
def test_queues_of_the_command_line(arguments: list[str], taken: set[str], scene: LoadScene) -> None:
    """-Q takes these instead of those of the INI file, -X leaves some out; what is not taken stays where it is."""
    check_taken(scene, arguments, taken)


@pytest.mark.parametrize("broker", ["rabbitmq"])
def test_queues_of_the_command_line_on_rabbitmq(scene: LoadScene) -> None:
    check_taken(scene, ["-Q", "one,two", "-X", "two"], {"one"})


def check_taken(scene: LoadScene, arguments: list[str], taken: set[str]) -> None:
    waiting, queues = 30, [ONE, TWO, THREE]
    scene.fill_with_marks(waiting, *queues)
    with scene.worker(queues=queues, arguments=arguments) as worker:
        wait_until(lambda: scene.count() == waiting * len(taken), 15.0, f"all of {taken} have run")
        assert worker.stop() == 0
    assert set(scene.marks()) == taken
    assert {queue.name: scene.waiting(queue) for queue in queues} == {
        queue.name: 0 if queue.name in taken else waiting for queue in queues
    }


@pytest.mark.parametrize("pool", POOLS)
def test_one_message_at_a_time_is_not_bound_by_a_poll(pool: str, scene: LoadScene, broker: str, told: Told) -> None:
    """With a prefetch of 1 the next message comes with the ack of the one before. If each waited for a poll instead,
    even for the shortest one, they would take several times as long as they may here; they take milliseconds each.
    Half of the tasks are empty, the others end when the loop is back in its wait.
    """
    between = 200
    scene.fill("mark_latency", args=[0.0])  # leaves the time
    for task in ("mark", "mark_later"):
        scene.fill(task, between // 2, args=["x"])
    scene.fill("mark_latency", args=[0.0])
    with scene.worker(pool=pool, concurrency=1, prefetch_multiplier=1) as worker:
        wait_until(lambda: scene.count() == between + 2, 60.0, "all have run")
        assert worker.stop() == 0
    first, *_, last = scene.marks()
    each = (float(last) - float(first)) / (between + 1)
    told(f"{broker}, {pool}: {each * 1e3:.2f} ms for each message")
    assert each < SHORTEST_POLL / 4


@pytest.mark.parametrize("pool", ["gevent", "threads"])
@pytest.mark.parametrize("broker", ["redis", "sqlite"])
def test_an_idle_worker_is_woken_and_otherwise_sleeps(pool: str, scene: LoadScene, broker: str, told: Told) -> None:
    """From the call to the start of the task; a poll once a second would make half a second of the median."""
    count = 30
    with scene.worker(pool=pool, concurrency=SLOTS) as worker:
        for number in range(count):
            scene.fill("mark_latency", args=[time.monotonic()])
            wait_until(functools.partial(has_run, scene, number + 1), 10.0, "the task has run")
        spent = cpu_seconds(worker.pid)
        began = time.monotonic()
        wait_until(lambda: time.monotonic() > began + 2.0, 5.0)
        load = (cpu_seconds(worker.pid) - spent) / (time.monotonic() - began)
        assert worker.stop() == 0
    median = statistics.median(float(mark) for mark in scene.marks())
    told(f"{broker}, {pool}: woken within {median * 1e3:.1f} ms (median), idle at {load:.1%} of a core")
    assert median < 0.050
    assert load < 0.15


@pytest.mark.full
@pytest.mark.parametrize("pool", POOLS)
def test_an_idle_worker_costs_nothing(pool: str, scene: LoadScene, broker: str, told: Told) -> None:
    """Under 2% of a core. CPU time, which a busy neighbour does not add to."""
    with scene.worker(pool=pool) as worker:
        scene.fill("mark", 100, args=["x"])
        wait_until(lambda: scene.count() == 100, 15.0, "all have run")
        spent, began = cpu_seconds(worker.pid), time.monotonic()
        wait_until(lambda: time.monotonic() > began + 5.0, 10.0)
        load = (cpu_seconds(worker.pid) - spent) / (time.monotonic() - began)
        assert worker.stop() == 0
    told(f"{broker}, {pool}: idle at {load:.2%} of a core")
    assert load < 0.02


def has_run(scene: LoadScene, count: int) -> bool:
    return scene.count() == count


def cpu_seconds(pid: int) -> float:
    """What the process has used so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
