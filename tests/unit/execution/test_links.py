"""Links: what follows an outcome, in which order it goes out, and that nothing wrong with a link harms its task."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from greenworker.broker.delivery import Settlement
from greenworker.broker.publisher import Replacement
from greenworker.broker.replacer import Companion, Fate
from greenworker.errors import Retry
from greenworker.execution.outcome import (
    Failed,
    Ignored,
    Outcome,
    PutBack,
    Rejected,
    Retried,
    Revoked,
    Succeeded,
    TimedOut,
)
from greenworker.execution.request import Request
from greenworker.protocol.message import TaskMessage, decode_task
from tests.support.execution import RecordingSource, make_delivery
from tests.support.greenproc import GREEN_POOLS, run_patched
from tests.support.settling import Bench

HAS_ID = {"task_id": "next"}
FAILED = Failed(ValueError("wrong"), "Traceback ...")


@pytest.fixture
def bench(caplog: pytest.LogCaptureFixture) -> Bench:
    caplog.set_level(logging.INFO)
    return Bench()


def signature(task: str = "other.note", *args: Any, **more: Any) -> dict[str, Any]:
    """As a Celery client sends it."""
    plain = {"task": task, "args": list(args), "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}
    return {**plain, **more}


def sent(bench: Bench) -> list[TaskMessage]:
    return [decode_task(each.outgoing.envelope, ["json"]) for each in bench.replacer.replacements]


def test_a_link_gets_the_result_first_and_its_family(bench: Bench) -> None:
    bench.settle(Succeeded(4), callbacks=[signature("other.note", 1)], root_id="root")
    [message] = sent(bench)
    assert (message.task, message.args) == ("other.note", [4, 1])
    assert (message.parent_id, message.root_id) == ("id-1", "root")
    assert bench.results.documents[0]["children"] == [[[message.id, None], None]]


def test_an_immutable_link_gets_its_own_arguments_alone(bench: Bench) -> None:
    bench.settle(Succeeded(4), callbacks=[signature("other.note", 1, immutable=True)])
    assert sent(bench)[0].args == [1]


def test_a_links_options_are_heeded(bench: Bench) -> None:
    options = {"queue": "others", "priority": 3, "task_id": "given", "countdown": 5, "retry_policy": {"max": 1}}
    bench.settle(Succeeded(4), callbacks=[signature(options={**options, "link": [signature("third")]})])
    [entry], [message] = bench.replacer.replacements, sent(bench)
    assert (entry.outgoing.routing_key, message.priority, message.id) == ("others", 3, "given")
    assert message.eta is not None
    assert [link["task"] for link in message.callbacks or ()] == ["third"]


def test_the_result_is_stored_first_then_each_link_is_confirmed_then_the_ack(bench: Bench) -> None:
    bench.results.held = True
    steps: list[Any] = []
    bench.replacer.before = lambda entry: steps.append((type(entry), list(bench.settlements)))
    bench.settle(Succeeded(4), callbacks=[signature("a"), signature("b"), signature("c")])
    assert (bench.replacer.replacements, bench.settlements) == ([], [])
    bench.results.release()
    assert steps == [(Companion, []), (Companion, []), (Replacement, [])]
    assert [message.task for message in sent(bench)] == ["a", "b", "c"]
    assert bench.settlements == [Settlement.ACK]


def test_links_follow_without_a_stored_result(bench: Bench) -> None:
    bench.settle(Succeeded(4), callbacks=[signature()], ignore_result=True)
    assert bench.results.documents == []
    assert len(sent(bench)) == 1


def test_links_follow_a_task_that_acked_when_it_started(bench: Bench) -> None:
    bench.settle(Succeeded(4), callbacks=[signature("a"), signature("b")], acks_late=False)
    assert [message.task for message in sent(bench)] == ["a", "b"]
    assert bench.settlements == [Settlement.ACK]


def test_a_rejected_task_has_failed_for_its_errbacks_and_its_letter_goes_out_last(bench: Bench) -> None:
    follow = {"errbacks": [signature("a"), signature("b")], "chain": [signature(options=HAS_ID)]}
    bench.settle(Rejected("no stock", requeue=False), **follow)
    *errbacks, letter = bench.replacer.replacements
    assert [type(entry) for entry in (*errbacks, letter)] == [Companion, Companion, Replacement]
    assert [message.task for message in sent(bench)[:2]] == ["a", "b"]
    assert letter.outgoing.routing_key == "celery.dead"
    assert [document["status"] for document in bench.results.documents] == ["FAILURE", "FAILURE"]
    assert bench.settlements == [Settlement.ACK]


@pytest.mark.parametrize("outcome", [Ignored(), Revoked("expired"), PutBack(), Rejected("later", requeue=True)])
def test_other_outcomes_send_none(bench: Bench, outcome: Outcome) -> None:
    bench.settle(outcome, callbacks=[signature()], errbacks=[signature()], chain=[signature()])
    assert bench.replacer.replacements == []


def test_a_retry_keeps_its_links_and_sends_none(bench: Bench) -> None:
    bench.settle(Retried(Retry(when=5.0), ""), callbacks=[signature("a")], errbacks=[signature("b")])
    [message] = sent(bench)
    assert (message.task, message.retries) == ("tests.add", 1)
    assert [link["task"] for link in [*(message.callbacks or ()), *(message.errbacks or ())]] == ["a", "b"]


@pytest.mark.parametrize("outcome", [FAILED, TimedOut(3.0)])
def test_an_errback_that_is_not_here_is_sent_with_the_tasks_id(bench: Bench, outcome: Outcome) -> None:
    bench.settle(outcome, errbacks=[signature("other.errback", 1)], callbacks=[signature()])
    [message] = sent(bench)
    assert (message.task, message.args) == ("other.errback", ["id-1", 1])
    assert (message.parent_id, message.root_id) == ("id-1", "id-1")


def test_errbacks_that_are_here_are_called_or_sent_by_what_they_take(bench: Bench) -> None:
    calls: list[Any] = []

    @bench.app.task(name="new")
    def new(request: Any, exc: Any, traceback: Any, extra: int = 0) -> None:
        calls.append((request.id, request.args, exc, traceback, extra))

    @bench.app.task(name="old")
    def old(task_id: str) -> None:
        raise AssertionError("sent, not called")

    @bench.app.task(name="bound", bind=True)
    def bound(self: Any, request: Any, exc: Any, traceback: Any) -> None:
        raise AssertionError("sent, not called")

    bench.settle(FAILED, errbacks=[signature("new", 7), signature("old"), signature("bound")], args=[1, 2])
    assert calls == [("id-1", [1, 2], FAILED.exc, "Traceback ...", 7)]
    assert [message.task for message in sent(bench)] == ["old", "bound"]
    assert bench.settlements == [Settlement.ACK]


def test_an_errback_that_raises_harms_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    @bench.app.task(name="raises")
    def raises(request: Any, exc: Any, traceback: Any) -> None:
        raise RuntimeError("errback")

    bench.settle(FAILED, errbacks=[signature("raises"), signature("sent")])
    assert "tests.add[id-1]: its link_error raises raised" in caplog.text
    assert (bench.states, bench.settlements) == (["FAILURE"], [Settlement.ACK])
    assert [message.task for message in sent(bench)] == ["sent"]


@pytest.mark.parametrize("pool", GREEN_POOLS)
def test_an_errback_that_hangs_is_ended_and_the_slot_goes_on(pool: str) -> None:
    """Its time is its own: the task's limits are over. The one after it is called, and nothing hits the next task."""
    scene = """
    import logging, time
    from greenworker.clock import SystemClock
    from greenworker.execution.bounded import Bounded
    from greenworker.execution.links import Links
    from greenworker.execution.outcome import Failed
    from greenworker.worker.timer import HeapTimer
    from tests.support.execution import RecordingResults, make_app, make_request
    from tests.support.pool_scenes import started_pool

    app, called, ended = make_app(), [], []
    @app.task(name="hangs")
    def hangs(request, exc, traceback):
        try:
            time.sleep(60)
        except Exception:
            called.append("swallowed")
    @app.task(name="next")
    def after(request, exc, traceback):
        called.append(request.id)
    timer = HeapTimer(SystemClock()); timer.start()
    links = Links(app, None, RecordingResults(), SystemClock(), Bounded(timer, 0.2, limits=True))
    errbacks = [hangs.app.tasks[name].s() for name in ("hangs", "next")]
    def job(run):
        if run.subject != "innocent":
            request = make_request(app=app, task_id=run.subject, errbacks=errbacks)
            request.run = run
            links.of(request, Failed(ValueError("wrong"), ""))
        run.interruptible = True      # as a body is
        time.sleep(0.05)
        ended.append(run.subject)
    jobs = started_pool(POOL, 10)
    logging.disable(logging.ERROR)
    began = time.monotonic()
    names = [f"id-{number}" for number in range(10)]
    for name in [*names, *["innocent"] * 10]: jobs.submit(job, name)
    assert jobs.join(10) and time.monotonic() - began < 5
    assert sorted(called) == names, called
    assert sorted(ended) == [*names, *["innocent"] * 10], ended
    timer.stop(); jobs.stop()
    print("passed")
    """
    assert run_patched(pool, scene).splitlines()[-1] == "passed"


def test_no_errback_is_called_while_the_worker_stops(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    @bench.app.task(name="new")
    def new(request: Any, exc: Any, traceback: Any) -> None:
        raise AssertionError("called")

    bench.settle(PutBack(), errbacks=[signature("new"), signature("sent")], acks_late=False)
    assert "tests.add[id-1]: its link_error new is not called" in caplog.text
    assert [message.task for message in sent(bench)] == ["sent"]


def test_the_next_of_a_chain_gets_the_rest(bench: Bench) -> None:
    chain = [signature("third"), signature("second", 1, options={"task_id": "s"})]
    bench.settle(Succeeded(4), chain=chain)
    [message] = sent(bench)
    assert (message.task, message.id, message.args) == ("second", "s", [4, 1])
    assert message.chain == [signature("third")]


def test_a_failure_fails_the_rest_of_its_chain(bench: Bench) -> None:
    """Or who waits for the last task waits for ever."""
    bench.settle(FAILED, chain=[signature(options={"task_id": "third"}), signature(options={"task_id": "second"})])
    assert [(each["task_id"], each["status"]) for each in bench.results.documents] == [
        ("third", "FAILURE"),
        ("second", "FAILURE"),
        ("id-1", "FAILURE"),
    ]
    assert bench.replacer.replacements == []


def test_groups_and_chains_as_links(bench: Bench) -> None:
    group = signature("celery.group", kwargs={"tasks": [signature("a"), signature("b")]}, subtask_type="group")
    chain = signature("celery.chain", kwargs={"tasks": [signature("c"), signature("d")]}, subtask_type="chain")
    bench.settle(Succeeded(4), callbacks=[group, chain])
    messages = sent(bench)
    assert [(message.task, message.args) for message in messages] == [("a", [4]), ("b", [4]), ("c", [4])]
    assert messages[2].chain == [signature("d")]


@pytest.mark.parametrize(
    ("link", "what"),
    [
        ("text", "expected a signature"),
        ({"args": []}, "expected a name"),
        (signature(args={}), None),
        (signature(args="text"), "args must be a list"),
        (signature(options={"countdown": "soon"}), "ISO 8601"),
        (signature(options={"priority": 999}), "expected a whole number from 0 to 255"),
        (signature(options={"serializer": "none"}), "EncodeError"),
        (signature(subtask_type="chord"), "chords are not here"),
        (signature(subtask_type="group"), "expected a list of signatures"),
    ],
)
@pytest.mark.parametrize("kind", ["callbacks", "errbacks"])
def test_a_link_that_is_wrong_is_told_and_the_others_go_out(
    bench: Bench, caplog: pytest.LogCaptureFixture, link: Any, what: str | None, kind: str
) -> None:
    outcome = Succeeded(4) if kind == "callbacks" else FAILED
    bench.settle(outcome, **{kind: [link, signature("good")]})
    assert sent(bench)[-1].task == "good"
    assert bench.settlements == [Settlement.ACK]
    if what is not None:
        assert what in caplog.text
        assert "tests.add[id-1]" in caplog.text


def test_a_result_that_a_link_cannot_carry_is_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.settle(Succeeded(object()), callbacks=[signature()], ignore_result=True)
    assert "tests.add[id-1]: its link other.note is not sent: EncodeError" in caplog.text
    assert bench.settlements == [Settlement.ACK]


def test_a_result_that_cannot_be_stored_is_a_failure_to_its_errbacks_too(bench: Bench) -> None:
    bench.settle(Succeeded(object()), callbacks=[signature("link", immutable=True)], errbacks=[signature("errback")])
    assert bench.states == ["FAILURE"]
    assert [message.task for message in sent(bench)] == ["errback"]


def test_a_chord_is_told_and_its_task_runs(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.settle(Succeeded(4), chord=signature("the.body"), group="g")
    assert "chords are not here" in caplog.text
    assert "the.body" in caplog.text
    assert (bench.states, bench.settlements) == (["SUCCESS"], [Settlement.ACK])


def test_a_link_that_no_message_can_hold_is_told_and_the_rest_go_out(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.replacer.before = lambda entry: Fate.UNSENDABLE
    bench.settle(Succeeded(4), callbacks=[signature("a"), signature("b")])
    assert caplog.text.count("cannot be put into a message") == 2
    assert bench.settlements == [Settlement.ACK]


@pytest.mark.parametrize("dropped", [0, 1])
def test_a_redelivery_meanwhile_takes_over_what_is_left(bench: Bench, dropped: int) -> None:
    """The connection was lost while link number ``dropped`` was on its way, and the message came again to us."""
    again = RecordingSource()
    request: Request | None = None

    def lose(entry: Replacement | Companion) -> Fate | None:
        nonlocal request
        if len(bench.replacer.replacements) != dropped + 1:
            return None
        delivery = entry.delivery
        request = bench.ledger.adopt(("id-1", 0), make_delivery(delivery.envelope, again, tag=2, redelivered=True))
        return Fate.DROPPED

    bench.replacer.before = lose
    bench.settle(Succeeded(4), callbacks=[signature("a"), signature("b")])
    assert [message.task for message in sent(bench)] == [["a", "a", "b"], ["a", "b", "b"]][dropped]
    assert request is not None
    assert bench.settlements == []
    assert again.settled == [(2, Settlement.ACK)]


def test_a_dropped_link_leaves_the_task_to_come_again(bench: Bench) -> None:
    bench.replacer.before = lambda entry: Fate.DROPPED
    bench.settle(Succeeded(4), callbacks=[signature("a"), signature("b")])
    assert len(bench.replacer.replacements) == 1
    assert bench.settlements == []
    assert not bench.ledger.was_finished(("id-1", 0))


def test_the_context_has_them() -> None:
    bench = Bench()
    links = {"callbacks": [signature("a")], "errbacks": [signature("b")], "chain": [signature("c")]}
    context = bench.settle(Succeeded(1), **links, root_id="r", parent_id="p", group="g", group_index=2).task_context()
    assert (context.callbacks, context.errbacks, context.chain) == tuple(links.values())
    assert (context.root_id, context.parent_id, context.group, context.group_index) == ("r", "p", "g", 2)
