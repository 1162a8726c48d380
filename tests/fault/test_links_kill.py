"""A worker killed again and again while tasks with links end: no link is lost, whatever was confirmed when it died."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.fault_scenes import Scene, counted
from tests.support.worker import wait_until

MakeScene = Callable[..., Scene]
TASKS = 300
KILLS = 2
CONCURRENCY = 20
LEASE_TIMEOUT = 1.0


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("classic", marks=pytest.mark.full)])
def test_no_link_is_lost(kind: str, make_scene: MakeScene) -> None:
    scene = make_scene(
        kind, results=True, worker={"concurrency": CONCURRENCY}, broker={"lease_timeout": f"{LEASE_TIMEOUT}s"}
    )
    links = [scene.client.signature("faults.linked", kwargs={"which": which}) for which in ("one", "two", "three")]
    ids: list[str] = []
    for kill in range(1, KILLS + 1):
        with scene.worker() as worker:
            ids = ids or scene.send("work", 0.05, count=TASKS, link=links)
            wait_until(lambda: len(set(scene.ids("end"))) >= TASKS * kill // 4, 30.0, "a quarter of the tasks ended")  # noqa: B023
            worker.kill()
    with scene.worker():
        for which in ("one", "two", "three"):
            wait_until(lambda: parents(scene, which) >= set(ids), 30.0, f"link {which} of every task")  # noqa: B023
        wait_until(lambda: scene.waiting() == 0, what="the queue to be empty")
    assert parents(scene, "one") == set(ids)
    ran_twice = set(counted(scene.ids("end")))
    assert len(ran_twice) <= KILLS * CONCURRENCY * 2, "only what was in flight ran again"


def parents(scene: Scene, which: str) -> set[str]:
    """The tasks whose link of that name has run."""
    return {line["of"] for line in scene.journal.lines() if line["event"] == which}
