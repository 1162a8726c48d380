"""Tasks, strategies, requests and boot steps that show how a worker treats what tasks do. See support/journal."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from greenlet import GreenletExit

from greenworker import App, Ignore, Reject, SoftTimeLimitExceeded
from greenworker.bootsteps import ConsumerStep, Step
from greenworker.broker.delivery import Delivery
from greenworker.consumer.strategy import DefaultStrategy, TaskServices
from greenworker.execution.request import Request
from greenworker.protocol.message import TaskMessage
from tests.support.journal import note

app = App("semantics")
logger = logging.getLogger("semantics")

if "TASKS_LOG" in os.environ:  # a handler of the app's own
    logger.addHandler(logging.FileHandler(os.environ["TASKS_LOG"]))

PLACES = 4  # slots of the workers that run these
MEETING = threading.Barrier(PLACES)
MEETING_TIMEOUT = 10.0


class ShopError(Exception):
    """An exception of the app's own."""


@app.task(name="semantics.add")
def add(x: Any, y: Any = 0) -> Any:
    note()
    return x + y


class Unprintable:
    """Neither its str nor its repr can be had, and it cannot be encoded."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


class UnprintableError(Exception):
    """The same as an exception."""

    def __str__(self) -> str:
        raise RuntimeError("no str")

    __repr__ = __str__


@app.task(name="semantics.unprintable", bind=True)
def unprintable(self: Any, how: str) -> Any:
    note()
    match how:
        case "return":
            return Unprintable()
        case "raise":
            raise UnprintableError(Unprintable())
        case "reject":
            raise Reject(Unprintable())
        case "retry":
            raise self.retry(exc=UnprintableError(Unprintable()), countdown=0, max_retries=1)
    raise ValueError(how)


@app.task(name="semantics.unencodable")
def unencodable(how: str) -> Any:
    if how == "return":
        return object()
    raise ShopError(object())


@app.task(name="semantics.size", ignore_result=True)
def size(text: str) -> None:
    note(size=len(text))


@app.task(name="semantics.fail")
def fail(text: str) -> None:
    note()
    raise ShopError(text, 7)


# --- retries ----------------------------------------------------------------------------------------------------------


@app.task(name="semantics.flaky", bind=True, max_retries=3, default_retry_delay=0.05)
def flaky(self: Any, failures: int) -> int:
    note()
    if self.request.retries < failures:
        raise self.retry(exc=ShopError(f"try {self.request.retries}"))
    return int(self.request.retries)


@app.task(name="semantics.gives_up", bind=True, max_retries=2, default_retry_delay=0.0)
def gives_up(self: Any) -> None:
    note()
    raise self.retry()


@app.task(name="semantics.waits", bind=True, max_retries=1, default_retry_delay=30.0)
def waits(self: Any) -> None:
    note()
    raise self.retry(exc=ShopError("not yet"))


@app.task(
    name="semantics.backoff", autoretry_for=(OSError,), max_retries=2, retry_backoff=True, retry_jitter=False, throws=()
)
def backoff() -> None:
    note()
    raise ConnectionError("again")


@app.task(name="semantics.jitter", autoretry_for=(OSError,), max_retries=4, retry_backoff=True, retry_backoff_max=0.4)
def jitter() -> None:
    note()
    raise ConnectionError("again")


# --- what tasks ask for -----------------------------------------------------------------------------------------------


@app.task(name="semantics.rejects")
def rejects() -> None:
    note()
    raise Reject("not mine")


@app.task(name="semantics.picky", bind=True)
def picky(self: Any) -> str:
    """Gives its message back the first time it sees it."""
    redelivered = self.request.delivery_info["redelivered"]
    note(redelivered=redelivered)
    if not redelivered:
        raise Reject("later", requeue=True)
    return "taken"


@app.task(name="semantics.ignores")
def ignores() -> None:
    note()
    raise Ignore


# --- limits -----------------------------------------------------------------------------------------------------------


@app.task(name="semantics.soft", soft_time_limit=0.3)
def soft(catch: bool = True) -> str:
    began = time.monotonic()
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        note(after=time.monotonic() - began)
        if not catch:
            raise
    return "cleaned up"


@app.task(name="semantics.hard", time_limit=0.3)
def hard(swallow: bool = False) -> str:
    began = time.monotonic()
    try:
        time.sleep(30)
    except BaseException as exc:
        note(after=time.monotonic() - began, raised=type(exc).__name__)
        if not swallow:
            raise
    return "swallowed"


@app.task(name="semantics.both", soft_time_limit=0.2, time_limit=0.4)
def both() -> None:
    began = time.monotonic()
    while True:  # what the soft limit raises is caught again and again; the hard limit is no Exception
        try:
            time.sleep(30)
        except Exception as exc:
            note(after=time.monotonic() - began, raised=type(exc).__name__)


@app.task(name="semantics.async_soft", soft_time_limit=0.3)
async def async_soft(catch: bool = True) -> str:
    began = time.monotonic()
    try:
        await asyncio.sleep(30)
    except SoftTimeLimitExceeded:
        note(after=time.monotonic() - began)
        if not catch:
            raise
    return "cleaned up"


@app.task(name="semantics.async_hard", time_limit=0.3)
async def async_hard() -> None:
    began = time.monotonic()
    try:
        await asyncio.sleep(30)
    finally:
        note(after=time.monotonic() - began)


@app.task(name="semantics.async_add")
async def async_add(x: int, y: int) -> int:
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        parts = [group.create_task(asyncio.sleep(0.01, part)) for part in (x, y)]
    note()
    return sum(part.result() for part in parts)


@app.task(name="semantics.async_fail")
async def async_fail() -> None:
    await asyncio.sleep(0)
    raise ShopError("awaited")


@app.task(name="semantics.exits")
def exits(kind: str) -> None:
    note()
    kinds = (SystemExit, KeyboardInterrupt, GreenletExit, GeneratorExit, asyncio.CancelledError)
    raise {cls.__name__: cls for cls in kinds}[kind]("on purpose")


@app.task(name="semantics.async_exits")
async def async_exits(kind: str) -> None:
    await asyncio.sleep(0)
    exits(kind)


@app.task(name="semantics.async_child_exits")
async def async_child_exits() -> str:
    """What asyncio's own tasks let out of the loop."""
    child = asyncio.create_task(async_exits.run("SystemExit"))
    try:
        await child
    except SystemExit:
        return "caught"
    return "nothing was raised"


@app.task(name="semantics.slowly")
async def slowly(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


@app.task(name="semantics.blocked")
def blocked(where: str) -> None:
    """Waits for ever, in one of the ways there are."""
    began = time.monotonic()
    try:
        WAITS[where]()
    except BaseException as exc:
        note(after=time.monotonic() - began, raised=repr(exc))
        raise


def _wait_for_a_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _wait_for_a_condition() -> None:
    condition = threading.Condition()
    with condition:
        condition.wait()


def _wait_for_a_thread() -> None:
    never = threading.Event()
    waiting = threading.Thread(target=never.wait, args=(5.0,), daemon=True)
    waiting.start()
    waiting.join()


def _wait_for_a_socket() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.recv(1)


def _wait_for_select() -> None:
    left, right = socket.socketpair()
    with left, right:
        select.select([left], [], [])


WAITS: Mapping[str, Callable[[], object]] = {
    "sleep": lambda: time.sleep(30),
    "lock": _wait_for_a_lock,
    "condition": _wait_for_a_condition,
    "event": lambda: threading.Event().wait(),
    "event with a timeout": lambda: threading.Event().wait(30),
    "queue": lambda: queue.Queue[int]().get(),
    "queue with a timeout": lambda: queue.Queue[int]().get(timeout=30),
    "thread": _wait_for_a_thread,
    "socket": _wait_for_a_socket,
    "select": _wait_for_select,
    "process": lambda: subprocess.run(["sleep", "5"], check=False),
}


@app.task(name="semantics.meets")
def meets() -> str:
    """Returns when as many of these run at once as there are slots."""
    MEETING.wait(MEETING_TIMEOUT)
    return "met"


# --- states, calls, publishing ----------------------------------------------------------------------------------------


@app.task(name="semantics.tracked", bind=True, track_started=True)
def tracked(self: Any, until_file: str) -> str:
    note(event="begin")
    _wait_for_file(until_file)
    self.update_state(state="PROGRESS", meta={"done": 1, "of": 2})
    note(event="progress")
    _wait_for_file(f"{until_file}.2")
    return "done"


@app.task(name="semantics.inner", bind=True)
def inner(self: Any, x: int) -> list[Any]:
    request = self.request
    return [x, request.called_directly, request.id, request.retries]


@app.task(name="semantics.calls", bind=True)
def calls(self: Any) -> Any:
    """Calls another task as a function: no message, no request of its own, and its own one stays."""
    before = self.request.id
    result = inner(5)
    return [result, before == self.request.id, self.request.called_directly]


@app.task(name="semantics.publishes", bind=True)
def publishes(self: Any, count: int) -> list[str]:
    return [lineage.delay(number).id for number in range(count)]


@app.task(name="semantics.lineage", bind=True)
def lineage(self: Any, number: int) -> None:
    note(number=number, root_id=self.request.root_id, parent_id=self.request.parent_id)


@app.task(name="semantics.limited", rate_limit="10/s")
def limited() -> None:
    note()


@app.task(name="semantics.early", acks_late=False)
def early(until_file: str) -> None:
    note()
    _wait_for_file(until_file)


@app.task(name="semantics.late")
def late(until_file: str) -> None:
    note()
    _wait_for_file(until_file)


def _wait_for_file(path: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with open(path):  # noqa: PTH123 - pathlib asks a lock, and this is polled
                return
        except FileNotFoundError:
            time.sleep(0.02)
    raise TimeoutError(path)


# --- logging ----------------------------------------------------------------------------------------------------------


@app.task(name="semantics.logs", bind=True)
def logs(self: Any) -> None:
    """A line from the task, and one from each kind of green thread that it can start."""
    logger.warning("from the task")
    child = threading.Thread(target=logger.warning, args=("from a thread",))
    child.start()
    child.join()
    for spawned in _spawned():
        spawned()
    logger.warning("from the task again")


def _spawned() -> list[Any]:
    """Ways to log from a green thread of the library that the worker is patched with, and to wait for it."""
    if _is_patched_by_gevent():
        import gevent
        import gevent.pool

        return [
            lambda: gevent.spawn(logger.warning, "from gevent.spawn").join(),
            lambda: gevent.spawn_later(0.01, logger.warning, "from gevent.spawn_later").join(),
            lambda: gevent.pool.Pool(2).spawn(logger.warning, "from a gevent pool").join(),
            lambda: gevent.spawn(lambda: gevent.spawn(logger.warning, "from a grandchild").join()).join(),
        ]
    import eventlet
    import eventlet.greenpool

    return [
        lambda: eventlet.spawn(logger.warning, "from eventlet.spawn").wait(),
        lambda: eventlet.spawn_after(0.01, logger.warning, "from eventlet.spawn_after").wait(),
        lambda: eventlet.greenpool.GreenPool(2).spawn(logger.warning, "from a GreenPool").wait(),
        lambda: _spawn_n(eventlet),
        lambda: eventlet.spawn(lambda: eventlet.spawn(logger.warning, "from a grandchild").wait()).wait(),
    ]


def _spawn_n(eventlet: Any) -> None:
    done = threading.Event()

    def body() -> None:
        logger.warning("from eventlet.spawn_n")
        done.set()

    eventlet.spawn_n(body)
    done.wait(5.0)


def _is_patched_by_gevent() -> bool:
    return getattr(time.sleep, "__module__", "").startswith("gevent")


@app.task(name="semantics.async_logs")
async def async_logs() -> None:
    logger.warning("from a coroutine")
    await asyncio.gather(_log_later())
    await asyncio.to_thread(logger.warning, "from a native thread")


@app.task(name="semantics.chatter")
def chatter(number: int) -> None:
    for line in range(500):
        logger.warning("%d %d", number, line)
        if line % 10 == 0:
            time.sleep(0)


@app.task(name="semantics.async_chatter")
async def async_chatter(number: int) -> None:
    for line in range(500):
        logger.warning("%d %d", number, line)
        if line % 10 == 0:
            await asyncio.sleep(0)


async def _log_later() -> None:
    await asyncio.sleep(0)
    logger.warning("from an asyncio task")


# --- a strategy and a request of the user's own -----------------------------------------------------------------------


class CountingStrategy(DefaultStrategy):
    """Notes each message, and sends those that say so to the dead-letter queue by raising."""

    def __call__(self, message: TaskMessage, delivery: Delivery) -> None:
        note(event="strategy", message=message.id)
        if message.kwargs.get("refuse"):
            raise ValueError("this strategy refuses it")
        super().__call__(message, delivery)


class MarkedRequest(Request):
    """Adds a header to what the task sees."""

    __slots__ = ()

    def context(self, hostname: str) -> Any:
        context = super().context(hostname)
        context.headers = {**context.headers, "marked": type(self).__name__}
        return context


def make_strategy(task: Any, services: TaskServices) -> CountingStrategy:
    """What the task below names."""
    note(event="prepared", prepared=task.name)
    return CountingStrategy(task, services)


@app.task(
    name="semantics.special",
    bind=True,
    Strategy="tests.support.semantics_tasks:make_strategy",
    Request="tests.support.semantics_tasks.MarkedRequest",
)
def special(self: Any, refuse: bool = False) -> Any:
    return dict(self.request.headers)


# --- steps of the user's own ------------------------------------------------------------------------------------------


class _Noting:
    """Notes when it starts and stops, and what was there before it."""

    def start(self, parent: Any) -> None:
        note(event="start", step=self.name, restarts=parent.blueprint.restart_count)

    def stop(self, parent: Any) -> None:
        note(event="stop", step=self.name)


class BeforePool(_Noting, Step[Any]):
    """In the Worker blueprint, before the pool."""

    name = "before_pool"
    before = "pool"


class AfterTasks(_Noting, ConsumerStep[Any]):
    """In the Consumer blueprint, after the step that begins to consume; starts again at every connection."""

    name = "after_tasks"
    after = "tasks"


class Last(_Noting, ConsumerStep[Any]):
    """With no place of its own: at the end."""

    name = "last"
