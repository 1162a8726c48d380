"""What a real worker does with what tasks do: retries, limits, rejections, exits, states, and parts of the user's own.

One worker a cell serves all tests of that cell, one after another: each test also shows that those before it left the
worker whole.
"""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from greenworker import App, MaxRetriesExceededError, Reject
from greenworker.app.result import AsyncResult
from greenworker.errors import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded, UnstorableResultError
from greenworker.protocol.results import FAILURE, PENDING, RETRY, REVOKED, STARTED, SUCCESS
from greenworker.settings import load_settings
from tests.support import semantics_tasks
from tests.support.dead_letters import dead_letters, wait_dead_letters
from tests.support.journal import Journal
from tests.support.proxy import Proxy
from tests.support.rabbitmq import RabbitMQ
from tests.support.semantics_tasks import PLACES, WAITS, ShopError
from tests.support.worker import Worker, wait_until

APP = "tests.support.semantics_tasks:app"
EXITS = ("SystemExit", "KeyboardInterrupt", "GreenletExit", "GeneratorExit", "CancelledError")
PROMPT = 0.1  # seconds that a limit may be late for code that yields
ROUNDS = 7  # runs whose median is judged: a shared machine may make a single one late


@dataclass
class Cell:
    """A running worker, and an App that sends to it and reads its results."""

    worker: Worker
    app: App
    journal: Journal
    url: str
    folder: Path

    def send(self, name: str, *args: Any, **options: Any) -> AsyncResult:
        return self.app.send_task(f"semantics.{name}", args, **options)

    def run(self, name: str, *args: Any, **options: Any) -> Any:
        """Send, and wait for what it returns."""
        return self.send(name, *args, **options).get(15)

    def notes(self, *results: AsyncResult) -> list[dict[str, Any]]:
        return self.journal.of(*[result.id for result in results])

    def wait_notes(self, count: int, *results: AsyncResult) -> list[dict[str, Any]]:
        """The notes of these tasks, once there are ``count``."""
        wait_until(lambda: len(self.notes(*results)) >= count, 15.0, f"{count} notes of {results}")
        return self.notes(*results)

    def dead_letters(self) -> list[Any]:
        """Takes all messages off the dead-letter queue."""
        return dead_letters(self.url)

    def wait_dead_letters(self, count: int) -> list[Any]:
        """The next ``count`` dead letters."""
        return wait_dead_letters(self.url, count)


def client(url: str, results_url: str) -> App:
    overrides = {("broker", "url"): url, ("results", "url"): results_url}
    return App("client", settings=load_settings(overrides=overrides, environ={}))


@pytest.fixture(
    scope="module",
    params=[
        ("gevent", "sqlite"),
        ("eventlet", "sqlite"),
        ("gevent", "rabbitmq"),
        pytest.param(("eventlet", "rabbitmq"), marks=pytest.mark.full),
    ],
    ids="-".join,
)
def cell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    pool, broker = request.param
    folder = tmp_path_factory.mktemp(f"{pool}-{broker}")
    url = f"sqlite:///{folder}/broker.db" if broker == "sqlite" else request.getfixturevalue("rabbitmq_module_url")
    results_url = f"sqlite:///{folder}/results.db"
    journal = Journal(folder / "journal")
    ini = {
        "worker": {"pool": pool, "concurrency": PLACES},
        "broker": {"url": url},
        "results": {"url": results_url},
        "log": {"format": "text"},
    }
    with Worker(folder, app=APP, ini=ini, environ=journal.environ) as worker:
        with client(url, results_url) as app:
            yield Cell(worker, app, journal, url, folder)
        assert worker.stop() == 0


# --- plain runs -------------------------------------------------------------------------------------------------------


def test_results_come_back(cell: Cell) -> None:
    assert cell.run("add", 2, 3) == 5
    result = cell.send("add", "ü", "🦊")
    assert result.get(15) == "ü🦊"
    assert (result.state, result.successful(), result.failed(), result.ready()) == (SUCCESS, True, False, True)


def test_get_raises_what_the_task_raised(cell: Cell) -> None:
    result = cell.send("fail", "nothing left")
    with pytest.raises(ShopError) as raised:
        result.get(15)
    assert raised.value.args == ("nothing left", 7)
    assert (result.state, result.failed()) == (FAILURE, True)
    assert result.traceback is not None
    assert re.search(r'semantics_tasks\.py", line \d+, in fail', result.traceback)
    assert "nothing left" in result.traceback
    assert "greenworker/execution" not in result.traceback, "the worker's own frames are no help"


def test_forget_removes_the_result(cell: Cell) -> None:
    result = cell.send("add", 1)
    result.get(15)
    result.forget()
    assert (result.state, cell.app.AsyncResult(result.id).state) == (PENDING, PENDING)


def test_a_direct_call_is_plain(cell: Cell) -> None:
    """In a process without a worker it needs no broker; in a task it makes no message."""
    assert semantics_tasks.inner(5) == [5, True, None, 0]
    assert cell.run("calls") == [[5, True, None, 0], True, False]


def test_a_task_publishes_tasks(cell: Cell) -> None:
    parent = cell.send("publishes", 25)
    children = [cell.app.AsyncResult(task_id) for task_id in parent.get(15)]
    notes = cell.wait_notes(25, *children)
    assert sorted(note["number"] for note in notes) == list(range(25))
    assert {(note["root_id"], note["parent_id"]) for note in notes} == {(parent.id, parent.id)}


# --- retries ----------------------------------------------------------------------------------------------------------


def test_retries_until_it_succeeds(cell: Cell) -> None:
    result = cell.send("flaky", 2)
    assert result.get(15) == 2
    notes = cell.notes(result)
    assert [note["retries"] for note in notes] == [0, 1, 2]
    assert all(later["at"] - sooner["at"] >= 0.05 for sooner, later in itertools.pairwise(notes))


def test_while_it_waits_its_state_is_retry(cell: Cell) -> None:
    result = cell.send("waits")
    wait_until(lambda: result.state == RETRY, 15.0, "state RETRY")
    assert isinstance(result.result, ShopError)
    assert result.result.args == ("not yet",)
    assert "in waits" in (result.traceback or "")
    assert not result.ready()


def test_retries_used_up_raise_the_reason(cell: Cell) -> None:
    result = cell.send("flaky", 99)
    with pytest.raises(ShopError, match="try 3"):
        result.get(15)
    assert [note["retries"] for note in cell.notes(result)] == [0, 1, 2, 3]


def test_retries_used_up_without_a_reason(cell: Cell) -> None:
    result = cell.send("gives_up")
    with pytest.raises(MaxRetriesExceededError, match=r"semantics\.gives_up"):
        result.get(15)
    assert [note["retries"] for note in cell.notes(result)] == [0, 1, 2]


def test_backoff_doubles_and_jitter_shortens(cell: Cell) -> None:
    doubling, jittered = cell.send("backoff"), [cell.send("jitter") for _ in range(3)]
    with pytest.raises(ConnectionError, match="again"):
        doubling.get(15)
    assert pauses(cell.notes(doubling)) == [pytest.approx(1.0, abs=0.7), pytest.approx(2.0, abs=0.7)]
    assert all(pause >= due for pause, due in zip(pauses(cell.notes(doubling)), (1.0, 2.0), strict=True))
    for result in jittered:
        with pytest.raises(ConnectionError):
            result.get(15)
    gaps = [pause for result in jittered for pause in pauses(cell.notes(result))]
    assert len(gaps) == 12
    assert statistics.median(gaps) < 0.4 + PROMPT, "retry_backoff_max is 0.4 s"
    assert max(gaps) - min(gaps) > 0.05, "without jitter they would all be alike"


def pauses(notes: list[dict[str, Any]]) -> list[float]:
    """Seconds between one run and the next."""
    return [later["at"] - sooner["at"] for sooner, later in itertools.pairwise(notes)]


# --- what tasks ask for -----------------------------------------------------------------------------------------------


def test_reject_goes_to_the_dead_letter_queue(cell: Cell) -> None:
    cell.dead_letters()
    result = cell.send("rejects", headers={"tenant": "acme"}, priority=3)
    (letter,) = cell.wait_dead_letters(1)
    assert letter.headers["x-greenworker-kind"] == "rejected"
    assert letter.headers["x-greenworker-reason"] == "not mine"
    assert letter.headers["x-greenworker-queue"] == "celery"
    assert (letter.headers["id"], letter.headers["task"]) == (result.id, "semantics.rejects")
    assert letter.headers["tenant"] == "acme"
    assert letter.payload[:2] == [[], {}]
    assert len(cell.notes(result)) == 1
    assert repr(result.get(15, propagate=False)) == repr(Reject("not mine"))


def test_reject_with_requeue_runs_again(cell: Cell) -> None:
    result = cell.send("picky")
    assert result.get(15) == "taken"
    assert [note["redelivered"] for note in cell.notes(result)] == [False, True]
    assert [note["retries"] for note in cell.notes(result)] == [0, 0]


def test_ignore_leaves_no_result(cell: Cell) -> None:
    result = cell.send("ignores")
    cell.wait_notes(1, result)
    cell.worker.wait_for_line(rf"semantics\.ignores\[{result.id}\] asked to be ignored")
    cell.run("add", 1)  # its result is written after any of the one before
    assert result.state == PENDING
    assert len(cell.notes(result)) == 1


def test_expired_is_not_run(cell: Cell) -> None:
    result = cell.send("add", 1, expires=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(15)
    assert result.state == REVOKED
    assert cell.notes(result) == []


# --- limits -----------------------------------------------------------------------------------------------------------


def lateness(notes: list[dict[str, Any]], limit: float) -> float:
    """The median of how long after ``limit`` the tasks felt it."""
    late = statistics.median(note["after"] - limit for note in notes)
    assert late > -0.02, f"before it was due: {notes}"  # a single body may begin a while after its limit has
    return late


@pytest.mark.parametrize("task", ["soft", "async_soft"])
def test_soft_limit(cell: Cell, task: str) -> None:
    caught = [cell.send(task) for _ in range(ROUNDS)]
    assert {result.get(15) for result in caught} == {"cleaned up"}
    assert lateness(cell.notes(*caught), 0.3) < PROMPT
    with pytest.raises(SoftTimeLimitExceeded):
        cell.run(task, False)


@pytest.mark.parametrize("swallow", [False, True])
def test_hard_limit(cell: Cell, swallow: bool) -> None:
    results = [cell.send("hard", swallow) for _ in range(ROUNDS)]
    for result in results:
        with pytest.raises(TimeLimitExceeded, match=r"0\.3"):
            result.get(15)
        assert "time.sleep(30)" in (result.traceback or ""), "where it was is told"
    notes = cell.notes(*results)
    assert lateness(notes, 0.3) < PROMPT
    assert {note["raised"] for note in notes} == {"StopTask"}


def test_hard_limit_of_a_coroutine(cell: Cell) -> None:
    results = [cell.send("async_hard") for _ in range(ROUNDS)]
    for result in results:
        with pytest.raises(TimeLimitExceeded):
            result.get(15)
    assert lateness(cell.wait_notes(ROUNDS, *results), 0.3) < PROMPT


def test_hard_limit_after_the_soft_one(cell: Cell) -> None:
    result = cell.send("both")
    with pytest.raises(TimeLimitExceeded, match=r"0\.4"):
        result.get(15)
    assert [note["raised"] for note in cell.notes(result)] == ["SoftTimeLimitExceeded"]


def test_limits_reach_every_way_to_wait(cell: Cell) -> None:
    """A limit ends whatever the task waits in, and the task is told of it as such."""
    for options, raised in (
        ({"time_limit": 0.3}, TimeLimitExceeded),
        ({"soft_time_limit": 0.3, "time_limit": 10.0}, SoftTimeLimitExceeded),
    ):
        results = {where: cell.send("blocked", where, **options) for where in WAITS}
        for result in results.values():
            with pytest.raises(raised):
                result.get(15)
        assert lateness(cell.notes(*results.values()), 0.3) < PROMPT


def test_limits_of_the_message(cell: Cell) -> None:
    with pytest.raises(TimeLimitExceeded, match=r"0\.2"):
        cell.run("late", "/nonexistent", time_limit=0.2)
    with pytest.raises(SoftTimeLimitExceeded):
        cell.run("late", "/nonexistent", soft_time_limit=0.2)


# --- async def, exits -------------------------------------------------------------------------------------------------


def test_coroutines_run(cell: Cell) -> None:
    results = [cell.send("async_add", number, 1) for number in range(20)]
    assert [result.get(15) for result in results] == list(range(1, 21))
    failed = cell.send("async_fail")
    with pytest.raises(ShopError, match="awaited"):
        failed.get(15)
    assert "in async_fail" in (failed.traceback or "")


@pytest.mark.parametrize("kind", EXITS)
def test_exits_in_tasks_cost_no_slot(cell: Cell, kind: str) -> None:
    results = [cell.send("exits", kind) for _ in range(2 * PLACES + 1)]
    for result in results:
        stored = result.get(15, propagate=False)
        assert kind in repr(stored), "what was raised is told"
        assert result.state == FAILURE
    meeting = [cell.send("meets") for _ in range(PLACES)]
    assert [result.get(15) for result in meeting] == ["met"] * PLACES, "not all slots are left"


def test_exits_in_coroutines_cost_neither_the_loop_nor_the_neighbours(cell: Cell) -> None:
    neighbours = [cell.send("slowly", 0.7) for _ in range(2)]
    for kind in EXITS:
        results = [cell.send("async_exits", kind) for _ in range(3)]
        assert all(kind in repr(result.get(15, propagate=False)) for result in results)
    assert cell.run("async_child_exits") == "caught"
    assert [result.get(15) for result in neighbours] == ["slept"] * 2
    assert cell.run("async_add", 1, 2) == 3


def test_what_cannot_be_printed_or_stored_is_told_and_run_once(cell: Cell) -> None:
    cell.dead_letters()
    returned, raised, retried = (cell.send("unprintable", how) for how in ("return", "raise", "retry"))
    with pytest.raises(UnstorableResultError, match=r"Unprintable.* cannot be encoded as json"):
        returned.get(15)
    for result in (raised, retried):
        stored = result.get(15, propagate=False)
        assert type(stored).__name__ == "UnprintableError"
        assert stored.args == ("<Unprintable, its repr raised RuntimeError>",)
    rejected = cell.send("unprintable", "reject")
    (letter,) = cell.wait_dead_letters(1)
    assert letter.headers["x-greenworker-reason"] == "<Unprintable, its str raised RuntimeError>"
    runs = [len(cell.notes(result)) for result in (returned, raised, retried, rejected)]
    assert runs == [1, 1, 2, 1]


# --- states -----------------------------------------------------------------------------------------------------------


def test_started_and_states_of_the_tasks_own(cell: Cell) -> None:
    gate = cell.folder / "gate"
    result = cell.send("tracked", str(gate))
    wait_until(lambda: result.state == STARTED, 15.0, "state STARTED")
    assert result.result["hostname"].startswith("worker@")
    gate.touch()
    wait_until(lambda: result.state == "PROGRESS", 15.0, "state PROGRESS")
    assert result.result == {"done": 1, "of": 2}
    assert not result.ready()
    Path(f"{gate}.2").touch()
    assert result.get(15) == "done"
    Path(f"{gate}.2").unlink()
    gate.unlink()


def test_rate_limit_holds_up_nobody_else(cell: Cell) -> None:
    limited = [cell.send("limited") for _ in range(15)]
    others = [cell.send("add", number) for number in range(10)]
    for result in others:
        result.get(15)
    ran_meanwhile = len(cell.notes(*limited))
    assert ran_meanwhile < len(limited), "the others had to wait for all of the limited ones"
    starts = sorted(note["at"] for note in cell.wait_notes(15, *limited))
    assert starts[-1] - starts[0] > 14 * 0.1 - 0.15, "faster than 10 a second"
    assert max(note["at"] for note in cell.notes(*others)) < starts[-1]


# --- parts of the user's own ------------------------------------------------------------------------------------------


def test_strategy_and_request_of_a_task(cell: Cell) -> None:
    cell.dead_letters()
    result = cell.send("special", headers={"tenant": "acme"})
    assert result.get(15) == {"tenant": "acme", "marked": "MarkedRequest"}
    refused = cell.send("special", kwargs={"refuse": True})
    (letter,) = cell.wait_dead_letters(1)
    assert letter.headers["x-greenworker-kind"] == "strategy"
    assert "this strategy refuses it" in letter.headers["x-greenworker-reason"]
    events = Counter((note["event"], note.get("message")) for note in cell.journal.lines() if "event" in note)
    assert events["strategy", result.id] == events["strategy", refused.id] == 1
    assert events["prepared", None] == 1, "once a task, when the consumer starts"


def test_steps_of_the_users_own(rabbitmq: RabbitMQ, rabbitmq_url: str, tmp_path: Path) -> None:
    """In their places, those of the Consumer blueprint again with each connection; debug lines have the order."""
    journal = Journal(tmp_path / "journal")
    vhost = rabbitmq_url.rpartition("/")[2]
    with Proxy(rabbitmq.port) as proxy:
        ini = {
            "worker": {"steps": "tests.support.semantics_tasks:BeforePool"},
            "consumer": {
                "steps": "tests.support.semantics_tasks:AfterTasks, tests.support.semantics_tasks:Last",
            },
            "broker": {"url": rabbitmq.url_of(vhost, proxy.port)},
            "log": {"level": "DEBUG", "format": "text"},
        }
        with Worker(tmp_path, app=APP, ini=ini, environ=journal.environ) as worker:
            assert_boot_order(worker)
            for restarts in (1, 2):
                proxy.cut()
                worker.wait_for_line("Connected again", count=restarts)
            assert worker.stop() == 0
    events = [(line["event"], line["step"], line.get("restarts")) for line in journal.lines() if "step" in line]
    up = [[("start", "after_tasks", number), ("start", "last", number)] for number in range(3)]
    down = [("stop", "last", None), ("stop", "after_tasks", None)]
    lives = itertools.chain.from_iterable(started + down for started in up)
    assert events == [("start", "before_pool", 0), *lives, ("stop", "before_pool", None)]


def assert_boot_order(worker: Worker) -> None:
    """What is logged at debug: the order, and each step's time."""
    order = {
        "Worker": ["timer", "hub", "queues", "before_pool", "pool", "consumer"],
        "Consumer": ["connection", "tasks", "after_tasks", "evloop", "last"],
    }
    for blueprint, steps in order.items():
        line = worker.wait_for_line(rf"{blueprint} blueprint: \w+ -> ")
        expected = [step for step in steps if step != "hub"]  # no hub, no step, where the pool is green
        assert line.rpartition("blueprint: ")[2].split(" -> ") == expected
        for step in expected:
            worker.wait_for_line(rf"{blueprint} blueprint: {step} started in \d+\.\d ms")


def test_a_step_that_is_none_is_told(tmp_path: Path) -> None:
    ini = {
        "worker": {"steps": "tests.support.semantics_tasks:ShopError"},
        "consumer": {"steps": "nowhere:Step"},
        "broker": {"url": f"sqlite:///{tmp_path}/broker.db"},
    }
    for section, wrong in (("worker", "tests.support.semantics_tasks:ShopError"), ("consumer", "nowhere:Step")):
        worker = Worker(tmp_path, app=APP, ini={name: ini[name] for name in (section, "broker")})
        worker.launch()
        assert worker.wait() == 78
        worker.wait_for_line(rf"\[{section}\] steps: {wrong}: expected module:Class of a greenworker\.bootsteps\.Step")


def unacked(rabbitmq: RabbitMQ, vhost: str) -> int:
    """Messages of all queues of ``vhost`` that were delivered and not acked yet."""
    counts = f'rabbit_amqqueue:info_all(<<"{vhost}">>, [messages_unacknowledged])'
    return int(rabbitmq.evaluate(f"lists:sum([N || [{{messages_unacknowledged, N}}] <- {counts}])."))


def test_acks_late_runs_again_and_acks_early_does_not(rabbitmq: RabbitMQ, rabbitmq_url: str, tmp_path: Path) -> None:
    """A process that is killed takes those with it that it acked when they started, and no others."""
    journal = Journal(tmp_path / "journal")
    gate = tmp_path / "gate"
    ini = {"worker": {"concurrency": PLACES}, "broker": {"url": rabbitmq_url}}
    worker = Worker(tmp_path, app=APP, ini=ini, environ=journal.environ)
    with client(rabbitmq_url, "none") as app, worker:
        early, late = (app.send_task(f"semantics.{name}", [str(gate)]).id for name in ("early", "late"))
        wait_until(lambda: len(journal.of(early, late)) == 2, what="both run")
        vhost = rabbitmq_url.rpartition("/")[2]
        wait_until(lambda: unacked(rabbitmq, vhost) == 1, what="the ack of the early one")
        worker.kill()
        gate.touch()
        worker.start()
        wait_until(lambda: len(journal.of(late)) == 2, what="the late one runs again")
        app.send_task("semantics.add", [1])
        wait_until(lambda: any(line.get("task") == "semantics.add" for line in journal.lines()), what="one after them")
        assert worker.stop() == 0
    assert len(journal.of(early)) == 1
