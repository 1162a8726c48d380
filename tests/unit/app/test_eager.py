"""Tasks run where they are sent: ``apply``, and ``always_eager``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import celery
import celery.signals
import pytest

from greenworker import Ignore, MaxRetriesExceededError, Reject, Task, signals
from greenworker.app.eager import EagerResult
from greenworker.errors import EncodeError, NotRegistered
from greenworker.settings.model import TaskSettings
from tests.support.recording import Project


@pytest.fixture
def eager() -> Project:
    return define(Project(task=TaskSettings(always_eager=True)))


@pytest.fixture
def project() -> Project:
    return define(Project())


def define(project: Project) -> Project:
    project.notes: list[Any] = []  # type: ignore[attr-defined,misc]
    add_tasks(project.app, project.notes)  # type: ignore[attr-defined]
    return project


def add_tasks(app: Any, notes: list[Any], **options: Any) -> None:
    """The same tasks for an App and for a Celery app, with more ``options``."""

    @app.task(**options, name="eager.add")  # type: ignore[untyped-decorator]
    def add(x: int, y: int = 0) -> int:
        notes.append(("add", x, y))
        return x + y

    @app.task(**options, name="eager.fail")  # type: ignore[untyped-decorator]
    def fail(text: str) -> None:
        raise LookupError(text)

    @app.task(**options, name="eager.flaky", bind=True, max_retries=3)  # type: ignore[untyped-decorator]
    def flaky(self: Any, failures: int) -> int:
        request = self.request
        notes.append((request.retries, request.is_eager, request.called_directly))
        if request.retries < failures:
            raise self.retry(exc=LookupError("again"), countdown=3600)
        return int(request.retries)

    @app.task(**options, name="eager.auto", autoretry_for=(KeyError,), max_retries=2, retry_backoff=600)  # type: ignore[untyped-decorator]
    def auto() -> None:
        notes.append("auto")
        raise KeyError("always")

    @app.task(**options, name="eager.out", bind=True, max_retries=1)  # type: ignore[untyped-decorator]
    def out(self: Any) -> None:
        raise self.retry()

    @app.task(**options, name="eager.errback")  # type: ignore[untyped-decorator]
    def errback(request: Any, exc: BaseException, traceback: Any) -> None:
        notes.append(("errback", request.id, exc, "LookupError" in str(traceback)))

    @app.task(**options, name="eager.old_errback")  # type: ignore[untyped-decorator]
    def old_errback(task_id: str) -> None:
        notes.append(("old errback", task_id))

    @app.task(**options, name="eager.ask")  # type: ignore[untyped-decorator]
    def ask(for_what: str) -> None:
        raise {"ignore": Ignore(), "reject": Reject("no")}[for_what]

    @app.task(**options, name="eager.parents", bind=True)  # type: ignore[untyped-decorator]
    def parents(self: Any, deep: int = 0) -> list[Any]:
        inner = parents.apply((deep - 1,)).get() if deep else []
        return [(self.request.parent_id, self.request.root_id, self.request.id), *inner]


def test_apply_runs_it_here(project: Project) -> None:
    result = project.app.tasks["eager.add"].apply((2,), {"y": 3}, task_id="t")
    assert isinstance(result, EagerResult)
    assert (result.id, result.state, result.get(), result.ready(), result.successful()) == (
        "t",
        "SUCCESS",
        5,
        True,
        True,
    )
    assert project.publisher.sent == []


def test_a_failure_is_in_the_result_or_raised_at_once(project: Project) -> None:
    fail = project.app.tasks["eager.fail"]
    result = fail.apply(("gone",))
    assert (result.state, result.failed(), repr(result.result)) == ("FAILURE", True, "LookupError('gone')")
    assert "in fail" in (result.traceback or "")
    with pytest.raises(LookupError, match="gone"):
        result.get()
    assert repr(result.get(propagate=False)) == "LookupError('gone')"
    with pytest.raises(LookupError, match="gone"):
        fail.apply(("gone",), throw=True)


def test_retries_run_at_once(project: Project) -> None:
    result = project.app.tasks["eager.flaky"].apply((2,))
    assert (result.state, result.get()) == ("SUCCESS", 2)
    assert project.notes == [(0, True, False), (1, True, False), (2, True, False)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("task", "args", "error"),
    [("eager.flaky", (9,), LookupError), ("eager.auto", (), KeyError), ("eager.out", (), MaxRetriesExceededError)],
)
def test_retries_end(project: Project, task: str, args: tuple[Any, ...], error: type[Exception]) -> None:
    result = project.app.tasks[task].apply(args)
    assert result.state == "FAILURE"
    with pytest.raises(error):
        result.get()


@pytest.mark.parametrize(("what", "state"), [("ignore", "IGNORED"), ("reject", "REJECTED")])
def test_what_asks_to_leave_no_result_leaves_none(project: Project, what: str, state: str) -> None:
    result = project.app.tasks["eager.ask"].apply((what,), throw=True)
    assert (result.state, result.get()) == (state, None)


def test_links_of_apply_are_sent(project: Project) -> None:
    """As in Celery: only always_eager keeps them here."""
    add = project.app.tasks["eager.add"]
    result = add.apply((1, 1), link=add.s(10))
    assert project.publisher.last.args == [2, 10]
    assert (project.publisher.last.parent_id, project.publisher.last.root_id) == (result.id, result.id)


def test_errbacks_run_here(project: Project) -> None:
    app = project.app
    errbacks = [app.tasks["eager.errback"].s(), app.tasks["eager.old_errback"].s()]
    result = app.tasks["eager.fail"].apply(("gone",), link_error=errbacks)
    assert project.notes == [  # type: ignore[attr-defined]
        ("errback", result.id, result.result, True),
        ("old errback", result.id),
    ]


def test_always_eager_keeps_everything_here(eager: Project) -> None:
    app, add = eager.app, eager.app.tasks["eager.add"]
    assert add.delay(1, 2).get() == 3
    assert add.s(1).apply_async((3,), link=add.s(5), countdown=3600).get() == 4
    assert app.send_task("eager.add", [1]).get() == 1
    assert [result.get() for result in app.bulk([add.s(7), (add, (8,))])] == [7, 8]
    assert eager.notes == [("add", 1, 2), ("add", 3, 1), ("add", 4, 5), ("add", 1, 0), ("add", 7, 0), ("add", 8, 0)]  # type: ignore[attr-defined]
    assert eager.publisher.sent == []


def test_always_eager_refuses_what_a_broker_would(eager: Project) -> None:
    with pytest.raises(EncodeError):
        eager.app.tasks["eager.add"].delay(object())
    with pytest.raises(TypeError, match=r"eager\.add"):
        eager.app.tasks["eager.add"].delay(1, 2, 3)
    with pytest.raises(NotRegistered):
        eager.app.send_task("eager.missing")


def test_eager_propagates() -> None:
    project = define(Project(task=TaskSettings(always_eager=True, eager_propagates=True)))
    with pytest.raises(LookupError, match="gone"):
        project.app.tasks["eager.fail"].delay("gone")


def test_nested_runs_know_their_parent(project: Project) -> None:
    outer, inner = project.app.tasks["eager.parents"].apply((1,)).get()
    assert outer == (None, outer[2], outer[2])
    assert inner == (outer[2], outer[2], inner[2])


def test_a_coroutine_is_run(project: Project) -> None:
    @project.app.task(name="eager.slow")
    async def slow(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    assert slow.apply((1,)).get() == 2


def test_update_state_keeps_nothing(project: Project) -> None:
    @project.app.task(name="eager.progress", bind=True)
    def progress(self: Any) -> str:
        self.update_state(state="PROGRESS", meta={"done": 1})
        return "done"

    assert progress.apply().get() == "done"


RUNS: dict[str, Callable[[Any], Any]] = {
    "success": lambda tasks: tasks["eager.add"].apply((1, 2)),
    "failure": lambda tasks: tasks["eager.fail"].apply(("gone",)),
    "retried": lambda tasks: tasks["eager.flaky"].apply((2,)),
    "retries used up": lambda tasks: tasks["eager.flaky"].apply((9,)),
    "errbacks": lambda tasks: tasks["eager.fail"].apply(
        ("gone",), task_id="t", link_error=[tasks["eager.errback"].s(), tasks["eager.old_errback"].s()]
    ),
    "delay": lambda tasks: tasks["eager.add"].delay(1),
    "link": lambda tasks: tasks["eager.add"].apply_async(
        (1,), link=[tasks["eager.add"].s(5), tasks["eager.add"].si(7)]
    ),
    "link_error": lambda tasks: tasks["eager.fail"].apply_async(
        ("gone",), task_id="t", link_error=tasks["eager.old_errback"].s()
    ),
}


@contextmanager
def telling(signals: Any, told: list[Any]) -> Iterator[None]:
    """Note what the signals of a run tell, from ``signals``: ours or Celery's."""
    with ExitStack() as stack:
        for name in ("task_prerun", "task_success", "task_failure", "task_retry", "task_postrun"):

            def receiver(sender: Any, _name: str = name, **told_of: Any) -> None:
                del told_of["signal"]
                values = [told_of.get(key) for key in ("state", "retval", "result", "exception", "reason")]
                plain = [value.exc if type(value).__name__ == "Retry" else value for value in values]
                told.append((_name, sender.name, sorted(told_of), list(told_of.get("args", ())), plain))

            signal = getattr(signals, name)
            signal.connect(receiver, weak=False)
            stack.callback(signal.disconnect, receiver)
        yield


@pytest.mark.parametrize("name", RUNS)
def test_it_runs_as_in_celery(eager: Project, name: str) -> None:
    """The same tasks, the same calls: one state, one result; the same was run on the way, and the same signals told."""
    client = celery.Celery("shop", broker="memory://", set_as_current=False)
    client.conf.task_always_eager = True
    theirs: list[Any] = []
    add_tasks(client, theirs, shared=False)  # shared ones go to every Celery app of the process
    ours: list[Any] = eager.notes  # type: ignore[attr-defined]
    with telling(celery.signals, theirs):
        expected = RUNS[name](client.tasks)
    with telling(signals, ours):
        found = RUNS[name](eager.app.tasks)
    assert (found.state, repr(found.result)) == (expected.state, repr(expected.result))
    assert repr(ours) == repr(theirs)


def test_every_run_is_told_to_its_end(project: Project) -> None:
    """Also one whose hook raises."""

    class Refuses(Task):
        def before_start(self, *told: Any) -> None:
            raise LookupError("no")

    refused = project.app.task(base=Refuses, name="eager.refused")(lambda: None)
    told: list[Any] = []
    with telling(signals, told), pytest.raises(LookupError):
        refused.apply()
    assert [name for name, *_ in told] == ["task_prerun", "task_postrun"]
