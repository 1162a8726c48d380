"""What many tasks cost the worker: asleep all at once, waiting for their time, one after another.

Memory, counts and order are asserted, never speed. RSS is the operating system's figure for the whole process.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from greenworker.broker.delivery import QueueSpec
from tests.support.load_scene import LoadScene, open_scene, peak_rss_bytes
from tests.support.worker import wait_until

MEGABYTE = 1_000_000
REDIS_PY_MEGABYTES = 7  # more than the worker has on other brokers before the first task: its modules, asyncio's too
FAR = 540.0  # seconds: such an ETA never comes in a test, and is near enough to be held in the worker
CLASSIC, QUORUM = QueueSpec("celery"), QueueSpec("celery", type="quorum")

Told = Callable[[str], None]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Prints a figure past pytest's capture."""

    def tell(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}", end="", flush=True)

    return tell


@pytest.fixture(params=["rabbitmq", "sqlite", pytest.param("redis", marks=pytest.mark.full)])
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scene(broker: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LoadScene]:
    with open_scene(broker, tmp_path, request) as scene:
        yield scene


def test_ten_thousand_tasks_asleep_at_once(scene: LoadScene, broker: str, told: Told) -> None:
    """Under 150 MB at the peak, but for what redis-py is, and each runs once.

    They sleep until the last one has begun and all are released.
    """
    count = 10_000
    scene.fill_numbered("sleep_until_released", count)
    with scene.worker(concurrency=count + 1, prefetch_multiplier=1) as worker:  # one slot for the release
        wait_until(lambda: scene.count() == count, 45.0, f"{count} have begun")
        scene.fill("release")
        wait_until(lambda: scene.count() == 2 * count, 45.0, f"{count} have ended")
        peak = peak_rss_bytes(worker)
        assert worker.stop() == 0
    marks = scene.marks()
    assert sorted(marks[:count]) == sorted(f"begin {number}" for number in range(count)), "all begin, then all end"
    assert sorted(marks[count:]) == sorted(f"end {number}" for number in range(count))
    assert scene.waiting() == 0
    told(f"{broker}: {count} asleep at once: {peak / MEGABYTE:.1f} MB at the peak")
    assert peak < (150 + (REDIS_PY_MEGABYTES if broker == "redis" else 0)) * MEGABYTE


@pytest.mark.parametrize(
    ("broker", "queue"),
    [
        pytest.param("rabbitmq", CLASSIC, marks=pytest.mark.full),
        ("rabbitmq", QUORUM),
        pytest.param("redis", CLASSIC, marks=pytest.mark.full),
        ("sqlite", CLASSIC),
    ],
    ids=lambda each: getattr(each, "type", each),
)
def test_etas_beyond_the_limit_wait_on_the_broker_and_come_back(
    scene: LoadScene, broker: str, queue: QueueSpec, told: Told
) -> None:
    """Far ETAs fill what the worker may hold, so that near ones go by the broker. Plain tasks run all the same."""
    near, far, plain, limit, countdown = 3_000, 500, 100, 100, 4.0
    with scene.worker(queues=[queue], concurrency=10, deferred_limit=limit) as worker:
        scene.fill("mark", far, args=["far"], countdown=FAR, queue=queue)
        wait_until(lambda: scene.parked() == far - limit, 30.0, f"{far - limit} are parked, {limit} are held")
        due_at = time.time() + countdown
        scene.fill("mark_id", near, countdown=countdown, queue=queue)
        scene.fill("mark", plain, args=["plain"], queue=queue)
        wait_until(lambda: scene.count() == near + plain, 45.0, f"{near + plain} have run")
        wait_until(lambda: scene.parked() == far - limit, 15.0, "the far ones are where they were")
        assert worker.stop() == 0
    runs = [mark.split() for mark in scene.marks()]
    others = Counter(words[0] for words in runs if len(words) == 1)
    assert others == {"plain": plain}
    times = {words[0]: float(words[1]) for words in runs if len(words) == 2}
    assert len(times) == near, "some ran twice, others never"
    late = sorted(at - due_at for at in times.values())
    told(f"{broker}, {queue.type}: {near} ETAs late by {late[near // 2]:.2f} s (median), {late[-1]:.2f} s at most")
    assert late[0] >= 0.0, "one ran before its time"
    wait_until(lambda: scene.parked() + scene.waiting() == far, 10.0, f"all {far} far ones are still on the broker")


@pytest.mark.full
@pytest.mark.timeout(500)
def test_a_hundred_thousand_etas(scene: LoadScene, broker: str, told: Told) -> None:
    """Under 100 MB more than an idle worker, and tasks without an ETA go on starting while they pour in."""
    count, limit, step = 100_000, 1_000, 10_000
    with scene.worker(deferred_limit=limit) as worker:
        run_marks(scene, 1_000)  # until it has imported and allocated what any task needs
        idle = worker.rss_bytes
        for _ in range(0, count, step):
            scene.fill("mark", step, args=["far"], countdown=FAR)
            run_marks(scene, 10)  # meanwhile
        wait_until(lambda: scene.parked() == count - limit, 240.0, f"all but {limit} are parked")
        grown = peak_rss_bytes(worker) - idle
        assert worker.stop() == 0
    assert "far" not in scene.marks()
    wait_until(lambda: scene.parked() + scene.waiting() == count, 30.0, "all are still on the broker")
    told(f"{broker}: {count} ETAs: {idle / MEGABYTE:.0f} MB idle, {grown / MEGABYTE:.0f} MB more at the peak")
    assert grown < 100 * MEGABYTE


@pytest.mark.parametrize(
    ("count", "limit"),
    [
        (10_000, 6 * MEGABYTE),  # caches still fill in the second half
        pytest.param(50_000, 2 * MEGABYTE, marks=[pytest.mark.full, pytest.mark.timeout(300)]),
    ],
)
def test_memory_does_not_grow_from_task_to_task(
    count: int, limit: int, scene: LoadScene, broker: str, told: Told
) -> None:
    """What the first half of the empty tasks needed (caches, the ledger's memory) is enough for the second."""
    with scene.worker(concurrency=100) as worker:
        run_marks(scene, 500)
        begin = worker.rss_bytes
        halves = []
        for half in (1, 2):
            for _ in range(0, count // 2, 2_500):
                run_marks(scene, 2_500)
            halves.append(worker.rss_bytes)
            assert scene.count() == 500 + half * count // 2
        assert worker.stop() == 0
    grown, second = halves[1] - begin, halves[1] - halves[0]
    told(f"{broker}: {count} empty tasks: {grown / MEGABYTE:+.2f} MB, {second / MEGABYTE:+.2f} in the second half")
    assert second < limit


def run_marks(scene: LoadScene, count: int) -> None:
    """Run ``count`` empty tasks, and wait for them."""
    before = scene.count()
    scene.fill("mark", count, args=["x"])
    wait_until(lambda: scene.count() == before + count, 60.0, f"{count} tasks have run")
