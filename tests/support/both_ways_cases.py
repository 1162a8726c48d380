"""The cases that run both ways, as a table: its name, the task, how it is called, and what must come back.

The same rows hold whichever side is Celery's. Where a Celery worker does otherwise than ours, the row's check says so.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from greenworker.protocol.results import PENDING, STARTED

LATE = 3.0  # seconds by which a task may be late where many share the machine
EARLY = 0.02  # and by which it may be early: an ETA is told to the millisecond, and clocks are read at different ends
TEXTS = ["naïve café", "日本語", "🦊" * 3, "a\nb\t\0c", "", "%s {x} \\ \"'"]
TOKYO = ZoneInfo("Asia/Tokyo")
WEST = timezone(timedelta(hours=-3, minutes=-30))


@dataclass
class Seen:
    """What came of a case."""

    result: Any  # the AsyncResult of either kind of client
    options: Mapping[str, Any]  # what it was sent with
    sent_at: float
    worker: str  # celery or greenworker
    value: Any = None  # what get() returned, or the exception that it raised
    passed: Any = None  # the info of the state that it was seen in on its way
    notes: Sequence[Mapping[str, Any]] = ()  # what its runs noted
    linked: Sequence[Mapping[str, Any]] = ()  # what the task linked to it noted

    @property
    def waits(self) -> list[float]:
        """Seconds between its runs."""
        at = [note["at"] for note in self.notes]
        return [after - before for before, after in itertools.pairwise(at)]


Check = Callable[[Seen], None]


@dataclass(frozen=True)
class Case:
    """One row. ``check`` looks at what came back, which is there if ``is_stored``; ``notes``: lines in the journal."""

    name: str
    task: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)  # what send_task takes
    when: Callable[[Any], Mapping[str, Any]] | None = None  # options that are made of the client when it sends
    check: Check = lambda seen: None
    notes: int = 1
    is_stored: bool = True
    passes: str = ""  # the state in which it must be seen before it ends
    gated: bool = False  # it is held until it was seen so


# --- what must come back ----------------------------------------------------------------------------------------------


def returns(value: Any) -> Check:
    def check(seen: Seen) -> None:
        assert seen.value == value
        assert repr(seen.value) == repr(value), "equal, but of another type or zone"
        assert seen.result.state == "SUCCESS"

    return check


def raises(name: str, *args: Any, runs: int = 1, trace: Sequence[str] = ()) -> Check:
    """An exception of that class; ``args`` where the case names any. ``trace``: what its traceback has."""

    def check(seen: Seen) -> None:
        assert isinstance(seen.value, Exception), seen.value
        assert type(seen.value).__name__ == name, repr(seen.value)
        assert not args or seen.value.args == args
        assert seen.result.state == ("REVOKED" if name == "TaskRevokedError" else "FAILURE")
        assert len(seen.notes) == runs
        for text in trace:
            assert text in seen.result.traceback

    return check


def is_told(**expected: Any) -> Check:
    def check(seen: Seen) -> None:
        assert seen.value | expected == seen.value
        assert seen.value["own id"]
        assert seen.value["at"] >= seen.sent_at - EARLY

    return check


def due_in(seconds: float) -> Check:
    """It ran as late after it was sent as it was to; its ETA is told as the moment that it means."""

    def check(seen: Seen) -> None:
        due_at = seen.sent_at + seconds
        assert due_at - EARLY <= seen.value["at"] <= due_at + LATE
        assert abs(moment(seen.value["eta"]) - due_at) < LATE

    return check


def expires_in(seconds: float) -> Check:
    def check(seen: Seen) -> None:
        assert abs(moment(seen.value["expires"]) - seen.sent_at - seconds) < LATE

    return check


def moment(text: str) -> float:
    """The time of a date that a message carries; a naive one is UTC, as in Celery."""
    told = datetime.fromisoformat(text)
    return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()


def is_tried_again(*waits: tuple[float, float]) -> Check:
    """It ended well, after so many retries, each between so many and so many seconds after the try before."""

    def check(seen: Seen) -> None:
        assert seen.value == len(waits)
        assert [note["retries"] for note in seen.notes] == list(range(len(waits) + 1))
        assert {note["root"] for note in seen.notes} == {seen.result.id}
        for wait, (least, most) in zip(seen.waits, waits, strict=True):
            assert least - EARLY <= wait <= most + LATE

    return check


def is_not_stored(state: str = PENDING, runs: int = 1) -> Check:
    def check(seen: Seen) -> None:
        assert seen.result.state == state
        assert len(seen.notes) == runs

    return check


def was(info: Callable[[Any], bool], state_after: str = "") -> Check:
    """``info`` holds of what it told on its way."""

    def check(seen: Seen) -> None:
        assert info(seen.passed), seen.passed
        if state_after:
            assert seen.result.state == state_after
        else:
            assert seen.value == "let go"

    return check


def runs_its_link(seen: Seen) -> None:
    """With its result first, as a child of it."""
    assert seen.value == [[1, 2], {}]
    assert [(note["args"], note["parent"], note["root"]) for note in seen.linked] == [
        ("([[1, 2], {}], 'linked')", seen.result.id, seen.result.id)
    ]


def runs_its_errback(seen: Seen) -> None:
    raises("ShopError", "wrong", runs=2)(seen)
    assert seen.notes[-1]["errback"] == ["ShopError", ["wrong"]]


# --- how they are called ----------------------------------------------------------------------------------------------


def eta(seconds: float, zone: Any) -> Callable[[Any], Mapping[str, Any]]:
    """``zone`` None: naive, which means UTC."""

    def when(client: Any) -> Mapping[str, Any]:
        due = datetime.now(zone or UTC) + timedelta(seconds=seconds)
        return {"eta": due if zone else due.replace(tzinfo=None)}

    return when


def expires(seconds: float, zone: Any) -> Callable[[Any], Mapping[str, Any]]:
    return lambda client: {"expires": datetime.now(zone) + timedelta(seconds=seconds)}


def link(client: Any) -> Mapping[str, Any]:
    return {"link": client.signature("shop.echo", args=("linked",), task_id=str(uuid.uuid4()))}


def link_error(client: Any) -> Mapping[str, Any]:
    return {"link_error": client.signature("shop.errback")}


# --- the table --------------------------------------------------------------------------------------------------------

PLAIN = [1, "a", None, [2.5, True], {"k": "v"}]
NAIVE = datetime(2031, 5, 6, 7, 8, 9, 123456)
AWARE = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
IN_WEST = datetime(2031, 5, 6, 7, 8, 9, tzinfo=WEST)
OF_JSON = [uuid.UUID(int=7), Decimal("1.10"), date(2031, 5, 6), 2**70, 1.5, None, True]
LONG = "é" * 500_000  # 1 MB in UTF-8
HEADERS = {"tenant": "ü", "nested": {"n": [1, 2]}}

# fmt: off
CASES = [
    Case("plain", "echo", PLAIN, check=returns([PLAIN, {}])),
    Case("no arguments", "echo", check=returns([[], {}])),
    Case("kwargs", "echo", kwargs={"x": 1, "ünicode": [2]}, check=returns([[], {"x": 1, "ünicode": [2]}])),
    Case("args and kwargs", "echo", [1], {"y": 2}, check=returns([[1], {"y": 2}])),
    Case("unicode", "echo", TEXTS, check=returns([TEXTS, {}])),
    Case("1 MB args", "echo", [LONG], check=returns([[LONG], {}])),
    Case("the types of JSON", "echo", OF_JSON, check=returns([OF_JSON, {}])),

    Case("eta", "told", when=eta(1.5, UTC), check=due_in(1.5)),
    Case("eta, naive", "told", when=eta(1.5, None), check=due_in(1.5)),
    Case("eta in another zone", "told", when=eta(1.5, TOKYO), check=due_in(1.5)),
    Case("eta west of the worker", "told", when=eta(1.5, WEST), check=due_in(1.5)),
    Case("countdown", "told", options={"countdown": 1.5}, check=due_in(1.5)),
    Case("expires", "told", options={"expires": 600}, check=expires_in(600)),
    Case("expires in another zone", "told", when=expires(600, TOKYO), check=expires_in(600)),
    Case("expired", "told", options={"expires": 2, "countdown": 3}, notes=0,
         check=raises("TaskRevokedError", "expired", runs=0)),

    Case("naive date", "echo", [NAIVE], check=returns([[NAIVE], {}])),
    Case("aware date", "echo", [AWARE], check=returns([[AWARE], {}])),
    Case("date in another zone", "echo", [IN_WEST], check=returns([[IN_WEST], {}])),

    Case("retry with countdown", "retries", [2], {"countdown": 0.2}, notes=3,
         check=is_tried_again((0.2, 0.2), (0.2, 0.2))),
    Case("retry after the task's delay", "retries", [1], notes=2, check=is_tried_again((1, 1))),
    Case("retry_backoff", "retries_doubling", [2], notes=3, check=is_tried_again((1, 1), (2, 2))),
    Case("retry_backoff=2", "retries_from_two", [1], notes=2, check=is_tried_again((2, 2))),
    Case("retry_backoff_max", "retries_capped", [2], notes=3, check=is_tried_again((1, 1), (1, 1))),
    Case("retry_jitter", "retries_jittered", [2], notes=3, check=is_tried_again((0, 1), (0, 2))),
    Case("retry_kwargs", "retries_constant", [2], notes=3, check=is_tried_again((0.5, 0.5), (0.5, 0.5))),
    Case("retry exhausted", "retries", [9], {"countdown": 0, "max_retries": 2}, notes=3,
         check=raises("ShopError", "try 2", runs=3)),
    Case("retry exhausted, no reason given", "gives_up", notes=2, check=raises("MaxRetriesExceededError", runs=2)),
    Case("autoretry exhausted", "retries_constant", [9], notes=3, check=raises("ShopError", "try 2", runs=3)),

    Case("custom exception", "fails", ["wrong", 3],
         check=raises("ShopError", "wrong", 3, trace=["ShopError", "fails"])),
    Case("chained exception", "chained", notes=0,
         check=raises("ShopError", "outer", runs=0, trace=["KeyError: 'inner'", "direct cause", "ShopError"])),
    Case("unknown task", "nobody_knows", notes=0, check=raises("NotRegistered", runs=0)),
    Case("Reject", "rejects", check=raises("Reject", "not mine", False)),
    Case("Reject, back to the queue", "rejects_once", notes=2, check=returns(2)),
    Case("Ignore", "ignores", is_stored=False, check=is_not_stored()),
    Case("Ignore after a state", "ignores", ["HALTED"], is_stored=False, passes="HALTED",
         check=was(lambda info: bool(info == {"done": 1}), state_after="HALTED")),

    Case("soft limit", "sleeps", options={"soft_time_limit": 1}, check=raises("SoftTimeLimitExceeded")),
    Case("soft limit, caught", "cleans_up", options={"soft_time_limit": 1, "time_limit": 20},
         check=returns("cleaned up")),
    Case("hard limit", "sleeps", options={"time_limit": 1}, check=raises("TimeLimitExceeded")),
    Case("limits are told", "told", options={"soft_time_limit": 30, "time_limit": 60}, check=is_told(limits=[60, 30])),

    Case("ignore_result of a call", "told", options={"ignore_result": True}, is_stored=False, check=is_not_stored()),
    Case("ignore_result of a task", "told_quietly", is_stored=False, check=is_not_stored()),
    Case("track_started", "held_started", gated=True, notes=0, passes=STARTED,
         check=was(lambda info: set(info) == {"pid", "hostname"})),
    Case("update_state", "held", kwargs={"state": "PROGRESS"}, gated=True, notes=0, passes="PROGRESS",
         check=was(lambda info: bool(info == {"done": 1}))),
    Case("link", "echo", [1, 2], when=link, check=runs_its_link),
    Case("link_error", "fails", ["wrong"], when=link_error, notes=2, check=runs_its_errback),

    Case("headers", "told", options={"headers": HEADERS}, check=is_told(headers=HEADERS)),
    Case("priority", "told", options={"priority": 7}, check=is_told(priority=7)),
    Case("gzip", "echo", [LONG], options={"compression": "gzip"}, check=returns([[LONG], {}])),
    Case("bzip2", "echo", [LONG], options={"compression": "bzip2"}, check=returns([[LONG], {}])),
    Case("zstd", "echo", [LONG], options={"compression": "zstd"}, check=returns([[LONG], {}])),
    Case("msgpack", "echo", [b"\x00\xff", "é", 2**63], options={"serializer": "msgpack"},
         check=returns([[b"\x00\xff", "é", 2**63], {}])),
    Case("yaml", "echo", ["é", {"a": [1]}], options={"serializer": "yaml"}, check=returns([["é", {"a": [1]}], {}])),
]
# fmt: on
