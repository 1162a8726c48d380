"""A worker killed under load and started again: nothing is lost, only what was in flight at the kill runs again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from greenworker.broker.connection import database_path
from tests.support.fault_scenes import Scene, counted
from tests.support.worker import wait_until

MakeScene = Callable[..., Scene]
TASKS = 1_000
CONCURRENCY = 40
LEASE_TIMEOUT = 2.0
UNPROVEN = 0.1  # seconds before the kill in which a task may have ended whose result, or ack, was not written yet

full = pytest.mark.full
CELLS = [
    pytest.param("gevent", "classic", marks=full),
    ("gevent", "quorum"),
    ("gevent", "sqlite"),
    pytest.param("eventlet", "classic", marks=full),
    pytest.param("eventlet", "quorum", marks=full),
    pytest.param("eventlet", "sqlite", marks=full),
]


def stored_ids(scene: Scene) -> set[str]:
    """The tasks that have a result."""
    with closing(sqlite3.connect(database_path(scene.results_url), timeout=5.0)) as connection:
        return {row[0] for row in connection.execute("SELECT task_id FROM results WHERE status = 'SUCCESS'")}


def in_flight(lines: list[dict[str, Any]]) -> set[str]:
    """The tasks that, when the last line was written, ran or had ended so shortly before that no ack may be out."""
    killed_at = max(line["at"] for line in lines)
    ended = {line["id"]: line["at"] for line in lines if line["event"] == "end"}
    begun = {line["id"] for line in lines if line["event"] == "begin"}
    return {each for each in begun if ended.get(each, killed_at) >= killed_at - UNPROVEN}


@pytest.mark.parametrize(("pool", "kind"), CELLS)
def test_killed_worker_loses_nothing(pool: str, kind: str, make_scene: MakeScene) -> None:
    scene = make_scene(
        kind,
        results=True,
        worker={"pool": pool, "concurrency": CONCURRENCY},
        broker={"lease_timeout": f"{LEASE_TIMEOUT}s"},
    )
    with scene.worker() as first:
        ids = scene.send("work", 0.2, count=TASKS)
        wait_until(lambda: len(scene.ids("end")) >= TASKS // 3, 30.0, "a third of the tasks ended")
        first.kill()
    before = scene.journal.lines()
    assert len({line["id"] for line in before if line["event"] == "end"}) < TASKS, "the load outlasted the kill"
    if kind != "sqlite":  # there messages stay with the dead consumer until its lease is over
        gone = TASKS - settled_count(scene)
        assert len(stored_ids(scene)) >= gone, "no message is gone whose result is not stored"
    with scene.worker():
        wait_until(lambda: set(scene.ids("end")) == set(ids), 40.0, "every task ended")
        wait_until(lambda: stored_ids(scene) == set(ids), what="every result stored")
        wait_until(lambda: scene.waiting() == 0)
    twice = set(counted(scene.ids("begin")))
    assert twice <= in_flight(before), f"{len(twice - in_flight(before))} tasks ran again that were not in flight"
    print(f"{pool}, {kind}: {len(twice)} of {TASKS} tasks ran twice, {CONCURRENCY} slots")


def test_ack_waits_for_the_stored_result(make_scene: MakeScene) -> None:
    scene = make_scene("classic", results=True, worker={"pool": "gevent"})
    with scene.worker() as worker, closing(sqlite3.connect(database_path(scene.results_url), timeout=5.0)) as other:
        other.execute("BEGIN IMMEDIATE")  # from here on no result can be stored
        ids = scene.send("work", count=20)
        wait_until(lambda: len(scene.ids("end")) == 20, what="every task ended")
        worker.kill()
        other.rollback()
    assert settled_count(scene) == 20, "messages were acked whose results were not stored"
    with scene.worker():
        wait_until(lambda: stored_ids(scene) == set(ids), what="every result stored")
        wait_until(lambda: len(scene.ids("end")) == 40 and scene.waiting() == 0)


def settled_count(scene: Scene) -> int:
    """How many messages the broker still has, when it has noticed that their consumer is dead."""
    counts: list[int] = []

    def settled() -> bool:
        counts.append(scene.waiting())
        return len(counts) > 2 and counts[-1] > 0 and len(set(counts[-3:])) == 1

    wait_until(settled, what="the broker to take the messages back")
    return counts[-1]


@pytest.mark.parametrize("pool", ["gevent", pytest.param("eventlet", marks=full)])
def test_two_workers_on_one_file_share_the_work_and_inherit_it(pool: str, make_scene: MakeScene) -> None:
    scene = make_scene("sqlite", worker={"pool": pool, "concurrency": 4}, broker={"lease_timeout": f"{LEASE_TIMEOUT}s"})
    with scene.worker("one") as one, scene.worker("two") as two:
        ids = scene.send("work", 0.05, count=300)
        wait_until(lambda: {line["pid"] for line in scene.journal.lines()} == {one.pid, two.pid}, what="both at work")
        killed = one.pid
        one.kill()
        held = [line["id"] for line in scene.journal.lines() if line["pid"] == killed and line["event"] == "begin"]
        done = {line["id"] for line in scene.journal.lines() if line["pid"] == killed and line["event"] == "end"}
        missing = set(held) - done
        wait_until(
            lambda: missing <= set(scene.ids("end")),
            LEASE_TIMEOUT * 1.5,
            f"within lease_timeout * 1.5 the {len(missing)} tasks of the dead worker ran on the other one",
        )
        wait_until(lambda: set(scene.ids("end")) == set(ids), 20.0, "every task ended")
        assert two.stop() == 0
    assert len(counted(scene.ids("begin"))) <= 2 * 4, "only what ran at the kill ran again"
