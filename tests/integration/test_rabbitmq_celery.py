"""greenworker and Celery on the same queue of RabbitMQ: workers of both kinds are killed at their work."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import pytest

from tests.support.fault_scenes import waiting_on
from tests.support.shared_scene import SharedScene
from tests.support.worker import wait_until

ROUNDS = 3  # kills of each kind
LOST_ACKS = 8  # of one kill: four tasks that ran, and as many whose acks were on their way


@pytest.mark.full
@pytest.mark.timeout(120)
@pytest.mark.parametrize("pool", ["threads", "gevent", "solo"])
def test_both_kinds_of_workers_killed_in_turn_lose_nothing(pool: str, rabbitmq_url: str, tmp_path: Path) -> None:
    """Each is killed three times at its work, and started anew; every task runs, and few of them twice."""
    with contextlib.closing(SharedScene(tmp_path, rabbitmq_url)) as scene, contextlib.ExitStack() as workers:
        ours = workers.enter_context(scene.greenworker("one"))
        theirs = workers.enter_context(scene.celery_worker(pool))
        for kill in range(ROUNDS):
            scene.wait_for_work(8, 0.2)
            ours.kill()
            ours = workers.enter_context(scene.greenworker(f"worker{kill}"))
            scene.wait_for_work(8, 0.2)
            theirs.kill()
            theirs = workers.enter_context(scene.celery_worker(pool, name=f"celery{kill}"))
        wait_until(lambda: set(scene.numbers("end")) == set(range(scene.held)), 60.0, "all run")
        assert ours.stop() == 0
        assert waiting_on(rabbitmq_url) == 0
    twice = [number for number, times in Counter(scene.numbers("begin")).items() if times > 1]
    assert len(twice) <= 2 * ROUNDS * LOST_ACKS
    print(f"{pool}: {len(twice)} of {scene.held} ran twice after {2 * ROUNDS} kills")
