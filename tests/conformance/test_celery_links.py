"""Links, errbacks and chains: the same calls through Celery's client and ours, to Celery's worker and ours.

What Celery's client and Celery's worker do together is the measure: what was noted there, the others must note too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import celery
import pytest

from greenworker import App
from greenworker.settings import load_settings
from tests.conftest import skip_or_fail
from tests.support import redis_server
from tests.support.celery_client import celery_client
from tests.support.celery_worker import CeleryWorker
from tests.support.journal import Journal
from tests.support.redis_server import RedisServer
from tests.support.worker import Worker, wait_until

OURS, THEIRS = "to-ours", "to-theirs"  # the queue of each worker


@dataclass
class Place:
    """Both workers, each on its queue of one broker, and both clients."""

    worker: Worker
    journal: Journal
    celery: celery.Celery
    ours: App

    def transcript(self, scene: Scene, client: Any, queue: str) -> list[dict[str, Any]]:
        """What the tasks of ``scene`` noted, in an order of its own, each id replaced by the name of its task."""
        before = len(self.journal.lines())
        result = scene.play(Caller(client, queue))
        wait_until(lambda: len(self.journal.lines()) - before >= scene.notes, 20.0, f"{scene.notes} notes")
        if scene.result is not None:
            assert result.get(timeout=20) == scene.result
        lines = [plain(line) for line in self.journal.lines()[before:]]
        names = {line["me"]: f"{line['name']}{line.get('args', '')}" for line in lines if "me" in line}
        named = [{key: names.get(str(value), value) for key, value in line.items()} for line in lines]
        return sorted(named, key=repr)


def plain(line: dict[str, Any]) -> dict[str, Any]:
    """What the task noted, without what the journal adds for tasks of ours alone."""
    return {key: value for key, value in line.items() if key not in {"id", "task", "retries", "at"}}


@dataclass
class Caller:
    """Sends through either client: their names are the same."""

    client: Any
    queue: str

    def send(self, name: str, *args: Any, **options: Any) -> Any:
        return self.client.send_task(name, args, queue=self.queue, **options)

    def sign(self, name: str, *args: Any, **more: Any) -> Any:
        return self.client.signature(name, args, queue=self.queue, **more)


@dataclass(frozen=True)
class Scene:
    """A call, how many notes come of it, and what its result is (None: not looked at)."""

    play: Callable[[Caller], Any]
    notes: int
    result: Any = None


SCENES = {
    "link": Scene(lambda c: c.send("links.add", 1, 2, link=c.sign("links.add", 10)), 2, 3),
    "links": Scene(
        lambda c: c.send("links.add", 1, link=[c.sign("links.add", 10), c.sign("links.add", 20, immutable=True)]), 3, 1
    ),
    "link of a link": Scene(lambda c: c.send("links.add", 1, link=linked(c.sign("links.add", 2), c)), 3, 1),
    "link of a task without result": Scene(lambda c: c.send("links.quiet", 1, link=c.sign("links.add", 10)), 2),
    "link after retries": Scene(lambda c: c.send("links.flaky", 2, link=c.sign("links.add", 10)), 4, 2),
    "errback that is called": Scene(lambda c: c.send("links.fail", "no", link_error=c.sign("links.new_errback")), 2),
    "errback with arguments": Scene(lambda c: c.send("links.fail", "no", link_error=c.sign("links.new_errback", 7)), 2),
    "errback that is sent": Scene(lambda c: c.send("links.fail", "no", link_error=c.sign("links.old_errback", 1)), 2),
    "errback after retries": Scene(
        lambda c: c.send("links.flaky", 9, link_error=[c.sign("links.old_errback"), c.sign("links.new_errback")]), 8
    ),
}


def linked(signature: Any, caller: Caller) -> Any:
    signature.link(caller.sign("links.add", 4))
    return signature


@pytest.fixture(scope="module", params=["rabbitmq", pytest.param("redis", marks=pytest.mark.full)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    skip_or_fail(request, redis_server.missing())
    redis: RedisServer = request.getfixturevalue("redis_session")
    backend = redis.new_database()
    broker = request.getfixturevalue("rabbitmq_module_url") if request.param == "rabbitmq" else redis.new_database()
    folder = tmp_path_factory.mktemp("links")
    journal = Journal(folder / "journal")
    ini = {"broker": {"url": broker}, "results": {"url": backend}, "worker": {"queues": OURS}}
    overrides = {("broker", "url"): broker, ("results", "url"): backend}
    environ = {"LINK_BROKER": broker, "LINK_BACKEND": backend, **journal.environ}
    client = celery_client(broker, backend)
    with (
        Worker(folder, app="tests.support.link_tasks_ours:app", ini=ini, environ=journal.environ) as worker,
        CeleryWorker(folder, "tests.support.link_tasks_celery", environ, ["-Q", THEIRS]),
        App("client", settings=load_settings(overrides=overrides, environ={})) as app,
    ):
        yield Place(worker, journal, client, app)
        client.close()


@pytest.mark.parametrize("name", SCENES)
def test_links_are_celerys(place: Place, name: str) -> None:
    scene = SCENES[name]
    expected = place.transcript(scene, place.celery, THEIRS)
    assert len(expected) == scene.notes
    assert place.transcript(scene, place.celery, OURS) == expected
    assert place.transcript(scene, place.ours, THEIRS) == expected
    assert place.transcript(scene, place.ours, OURS) == expected


def test_a_chain_runs_to_its_end_and_each_step_has_its_result(place: Place) -> None:
    caller = Caller(place.celery, OURS)
    chain = celery.chain(caller.sign("links.add", 1), caller.sign("links.add", 10), caller.sign("links.add", 100))
    last = chain.apply_async()
    assert last.get(timeout=20) == 111
    assert (last.parent.get(timeout=20), last.parent.parent.get(timeout=20)) == (11, 1)
    assert [child.id for child in last.parent.children] == [last.id]
    assert [value for _, value in last.parent.parent.collect()] == [1, 11, 111]


def test_a_chain_that_breaks_fails_to_its_end(place: Place) -> None:
    caller = Caller(place.celery, OURS)
    chain = celery.chain(caller.sign("links.fail", "no"), caller.sign("links.add", 10), caller.sign("links.add", 100))
    last = chain.apply_async()
    with pytest.raises(LookupError, match="no"):
        last.get(timeout=20)
    wait_until(lambda: (last.state, last.parent.state) == ("FAILURE", "FAILURE"), 10.0, "the chain's results")


def test_a_plain_group_works(place: Place) -> None:
    caller = Caller(place.celery, OURS)
    group = celery.group(caller.sign("links.add", number) for number in range(5))
    assert sorted(group.apply_async().get(timeout=20)) == [0, 1, 2, 3, 4]


def test_a_chord_says_what_is_not_here(place: Place) -> None:
    caller = Caller(place.celery, OURS)
    header = [caller.sign("links.add", number) for number in range(3)]
    result = celery.chord(header)(caller.sign("links.add"))
    assert sorted(result.parent.get(timeout=20)) == [0, 1, 2]  # its tasks ran and have their results
    place.worker.wait_for_line(r"is part of a chord, and chords are not here: .* body links\.add", count=3)
    assert result.state == "PENDING"
