"""A real Celery client sends thousands of tasks of every kind over RabbitMQ: each runs exactly as its message says.

Each task notes what it was told and the test compares that with what the client meant, so nothing here goes through
greenworker's own encoder. Runs are counted: none is missing, none is there twice, and the queues are empty at the end.
"""

from __future__ import annotations

import random
import statistics
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import kombu.compression
import pytest
import zstandard
from celery import Celery

from greenworker import App
from greenworker.protocol.results import FAILURE, PENDING, REVOKED, SUCCESS
from greenworker.settings import load_settings
from tests.support.celery_client import celery_client
from tests.support.client_tasks import plain
from tests.support.journal import Journal
from tests.support.worker import Worker, wait_until

QUEUES = ("celery", "other")
COMPRESSIONS = (None, "gzip", "zlib", "bzip2", "zstd", "lzma")
SERIALIZERS = ("json", "yaml", "msgpack")
TEXTS = ("plain", "naïve café", "日本語", "🦊" * 3, "a\nb\t\0c", "", "%s {x} \\ \"'", "ø" * 3000)
NEVER = frozenset({PENDING, REVOKED})  # the broker itself drops what has expired before it is delivered


@dataclass
class Call:
    """One task that the client sends, and what must come of it. ``retries`` are those of its runs, in order."""

    task: str
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    protocol: int = 2
    states: frozenset[str] = frozenset({SUCCESS})
    result: Any = None
    retries: tuple[int, ...] = (0,)
    eta: datetime | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def said(self) -> dict[str, Any]:
        """What each run of the task must have found in its request."""
        told = self.options.get
        second = self.protocol == 2
        return {
            "task": self.task,
            "args": plain(self.args),
            "kwargs": plain(self.kwargs),
            "priority": told("priority", 0),
            "queue": told("queue", "celery"),
            "headers": told("headers", {}),
            "timelimit": [told("time_limit"), told("soft_time_limit")],
            "ignore_result": second and told("ignore_result", False),
            "correlation_id": self.id,
            "parent_id": None,
            "group": told("group_id"),
        }


def value(chance: random.Random, serializer: str) -> Any:
    """Some argument that ``serializer`` can carry."""
    common = [
        None,
        chance.choice(TEXTS),
        chance.randint(-(2**62), 2**62),
        chance.random() * 10 ** chance.randint(-300, 300),
        [1, ["two", {"three": None}]],
        {"ключ": [True, False], "": {}},
        [],
    ]
    own = {
        "json": [
            2**200,
            float("inf"),
            uuid.UUID(int=chance.getrandbits(128)),
            Decimal("1.10"),
            datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC),
            b"\x00\xff",
        ],
        "yaml": [datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC), b"\x00\xff"],
        "msgpack": [b"\x00\xff", 2**63],
    }
    return chance.choice(common + own[serializer])


def echo(chance: random.Random) -> Call:
    serializer = chance.choice(SERIALIZERS)
    args = [value(chance, serializer) for _ in range(chance.randint(0, 4))]
    kwargs = {name: value(chance, serializer) for name in chance.sample(("x", "name", "ünicode", "self_"), 2)}
    task = chance.choice(("client.echo", "client.echo_async"))
    return Call(task, args, kwargs, {"serializer": serializer}, result=[plain(args), plain(kwargs)])


def fail(chance: random.Random) -> Call:
    text = chance.choice(TEXTS)
    return Call("client.fail", [text], states=frozenset({FAILURE}), result=LookupError(text))


def flaky(chance: random.Random) -> Call:
    sent, failures = chance.randint(0, 2), chance.randint(0, 4)
    options = {"retries": sent} if sent else {}
    last = max(sent, failures)
    return Call("client.flaky", [failures], {"a": 1}, options, result=last, retries=tuple(range(sent, last + 1)))


def limited(chance: random.Random) -> Call:
    """A task that only its limits end; they are in its message alone."""
    kind = chance.choice(("hard", "soft", "caught"))
    options = {"time_limit": 0.2} if kind == "hard" else {"soft_time_limit": 0.2, "time_limit": 20.0}
    call = Call("client.stuck", [kind == "caught"], {}, options)
    if kind == "caught":
        call.result = "cleaned up"
    else:
        call.states = frozenset({FAILURE})
        call.result = {"hard": "TimeLimitExceeded", "soft": "SoftTimeLimitExceeded"}[kind]
    return call


def due_later(chance: random.Random) -> Call:
    call = echo(chance)
    seconds = chance.uniform(0.2, 4.0)
    call.eta = datetime.now(UTC) + timedelta(seconds=seconds)
    call.options |= {"countdown": seconds} if chance.random() < 0.5 else {"eta": call.eta}
    return call


def expiring(chance: random.Random) -> Call:
    """In time, too late, or before it is due."""
    call = echo(chance)
    kind = chance.choice(("in time", "too late", "before it is due"))
    call.options |= {"in time": {"expires": 600}, "too late": {"expires": -5}}.get(
        kind, {"expires": 0.5, "countdown": 2.0}
    )
    if kind != "in time":
        call.states, call.retries = NEVER, ()
    return call


KINDS: dict[Callable[[random.Random], Call], int] = {
    echo: 62,
    fail: 7,
    flaky: 8,
    limited: 5,
    due_later: 10,
    expiring: 8,
}


def calls(count: int, seed: int = 20_260_101) -> Iterator[Call]:
    """``count`` calls, the same for the same seed but for ids and times."""
    chance = random.Random(seed)
    for make in chance.choices(list(KINDS), list(KINDS.values()), k=count):
        call = make(chance)
        call.protocol = 1 if chance.random() < 0.3 else 2
        options = call.options
        options.setdefault("serializer", chance.choice(SERIALIZERS))
        options["compression"] = chance.choice(COMPRESSIONS)
        if chance.random() < 0.3:
            options["queue"] = "other"
        if chance.random() < 0.3:
            options["priority"] = chance.randint(0, 9)
        if chance.random() < 0.3:
            options["headers"] = {"tenant": chance.choice(TEXTS), "nested": {"n": [1, 2]}, "x-trace": chance.random()}
        if chance.random() < 0.2:
            options["ignore_result"] = True
        if chance.random() < 0.1:
            options["group_id"] = str(uuid.uuid4())
        yield call


def check_run(call: Call, line: dict[str, Any], number: int) -> None:
    """One run against what the client meant; ``number`` is its place among the runs of the task."""
    said = call.said
    assert {name: line[name] for name in said} == said, call
    # Protocol 1 has no place for it: the message of a retry, in protocol 2, is the first to name it.
    assert line["root_id"] in ([call.id] if call.protocol == 2 else [call.id, None]), call
    if call.eta is not None:
        assert line["at"] >= call.eta.timestamp() - 0.005, f"{call} ran before it was due"
    elif number == 0 and "countdown" not in call.options:
        assert line["eta"] is None, call
    if "expires" in call.options:
        assert line["expires"] is not None, call


def check_result(call: Call, app: App) -> str:
    """The stored result against what the client meant; returns its state."""
    found = app.AsyncResult(call.id)
    if call.protocol == 2 and call.options.get("ignore_result"):
        assert found.state == PENDING, call
        return "ignored"
    assert found.state in call.states, f"{call} is {found.state}: {found.result!r}"
    if found.state == FAILURE and isinstance(call.result, str):
        assert type(found.result).__name__ == call.result, call
    elif found.state == FAILURE:
        assert repr(found.result) == repr(call.result), call
        assert "client_tasks.py" in (found.traceback or ""), call
    elif found.state == SUCCESS:
        assert found.result == call.result, call
    return found.state


def left_on(client: Celery, queue: str) -> int:
    """Messages on a queue that nobody consumes any more."""
    with client.connection_for_read() as connection:
        return int(connection.default_channel.queue_declare(queue, passive=True).message_count)


@pytest.fixture(scope="module", autouse=True)
def zstd_as_kombu_has_it() -> None:
    """kombu takes zstd from Python 3.14 or a package of its own choice; under this name and content type."""
    if "zstd" not in kombu.compression._aliases:
        compress, decompress = zstandard.ZstdCompressor().compress, zstandard.ZstdDecompressor().decompress
        kombu.compression.register(compress, decompress, "application/zstd", aliases=["zstd"])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("pool", ["gevent", pytest.param("eventlet", marks=pytest.mark.full)])
@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.full)])
def test_every_task_runs_as_its_message_says(pool: str, count: int, rabbitmq_url: str, tmp_path: Path) -> None:
    results_url = f"sqlite:///{tmp_path}/results.db"
    journal = Journal(tmp_path / "journal")
    ini = {
        "worker": {"pool": pool, "concurrency": 50, "queues": ", ".join(QUEUES), "deferred_limit": 40},
        "broker": {"url": rabbitmq_url, "accept": ", ".join(SERIALIZERS)},
        "results": {"url": results_url},
        "log": {"level": "WARNING"},
    }
    worker = Worker(tmp_path, app="tests.support.client_tasks:app", ini=ini, environ=journal.environ)
    sent: list[Call] = []
    # No confirms: at a round trip a message the client would be the slow part. Closing it in order loses nothing.
    settings: dict[str, Any] = {"broker_transport_options": {}}
    clients = {protocol: celery_client(rabbitmq_url, task_protocol=protocol, **settings) for protocol in (1, 2)}
    with worker:
        for call in calls(count):
            clients[call.protocol].send_task(call.task, call.args, call.kwargs, task_id=call.id, **call.options)
            sent.append(call)
        runs_due = sum(len(call.retries) for call in sent)
        wait_until(lambda: len(journal.lines()) >= runs_due, 120.0, f"{runs_due} runs")
        assert worker.stop() == 0

    lines = defaultdict(list)
    for line in journal.lines():
        lines[line["id"]].append(line)
    assert set(lines) <= {call.id for call in sent}
    for call in sent:
        runs = lines[call.id]
        assert tuple(line["retries"] for line in runs) == call.retries, call
        for number, line in enumerate(runs):
            check_run(call, line, number)
    late = [lines[call.id][0]["at"] - call.eta.timestamp() for call in sent if call.eta is not None]
    # Those beyond deferred_limit wait on the broker, which counts whole seconds.
    assert statistics.median(late) < 1.5, "ETA tasks are late"

    overrides = {("broker", "url"): rabbitmq_url, ("results", "url"): results_url}
    with App("reader", settings=load_settings(overrides=overrides, environ={})) as app:
        states = Counter(check_result(call, app) for call in sent)
    assert states[SUCCESS] > count / 3
    assert states[FAILURE] > count / 20
    assert states["ignored"] > count / 20
    for queue in QUEUES:
        assert left_on(clients[2], queue) == 0
    for client in clients.values():
        client.close()
