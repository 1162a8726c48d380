"""Runs the bodies of ``async def`` tasks: one asyncio event loop on a native thread of its own, awaited by greenlets.

Rules this file keeps:

* The loop's thread, its selector and its helper threads are the unpatched ones: asyncio would otherwise run inside the
  hub and stop it, and ``asyncio.to_thread`` would start a greenlet in a thread that has no running hub.
* The two sides meet in two calls only: ``loop.call_soon_threadsafe`` one way, ``HubCaller.call`` the other.
* What is raised in the waiting greenlet goes on into the coroutine: an Exception (the soft limit) is raised at its
  ``await``, where it can be caught; anything else cancels it, and the greenlet waits a while for its end.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from functools import partial
from typing import Any, NoReturn

from greenworker.green.base import HubCaller, Library

logger = logging.getLogger(__name__)

START_TIMEOUT = 10.0  # seconds for the loop's thread to come up
CANCEL_TIMEOUT = 5.0  # seconds that a cancelled coroutine gets to clean up
STOP_TIMEOUT = 5.0  # seconds that `stop` waits for the thread
LOOK_INTERVAL = 30.0  # seconds between two looks whether the thread is still there

EXITS = (SystemExit, KeyboardInterrupt)  # asyncio lets these out of its loop, and ends it


class LoopDiedError(RuntimeError):
    """The event loop's thread ended while a coroutine was running on it."""


class Latch:
    """Opens once. Waited for by one greenlet (or thread); opened in the hub.

    A bare lock and no Event: an exception that is raised in a wait inside a Condition may come out as another one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def open(self) -> None:
        """Let the one who waits go on. Called once."""
        self._lock.release()

    def wait(self, timeout: float) -> bool:
        """Returns whether it was opened within ``timeout`` seconds."""
        return self._lock.acquire(timeout=timeout)


class Call(Coroutine[Any, Any, Any]):
    """One coroutine on its way: wraps it, so that exceptions of our choice can be raised in it.

    ``task`` is set, and ``_pending`` taken, in the loop's thread. ``result`` and ``error`` are set there before the
    latch opens, and read after that.
    """

    def __init__(self, body: Coroutine[Any, Any, Any]) -> None:
        self._body = body
        self._pending: Exception | None = None
        self.task: asyncio.Task[Any] | None = None
        self.done = Latch()
        self.result: Any = None
        self.error: BaseException | None = None

    def interrupt(self, exc: Exception) -> None:
        """Raise ``exc`` at the coroutine's ``await``. In the loop's thread."""
        if self.task is not None and not self.task.done():
            self._pending = exc
            self.task.cancel()

    def cancel(self) -> None:
        """Cancel the coroutine. In the loop's thread."""
        if self.task is not None:
            self.task.cancel()

    def finish(self, task: asyncio.Task[Any]) -> None:
        """Take the outcome over from the task."""
        if self.error is not None:
            return
        if task.cancelled():
            self.error = asyncio.CancelledError()
        else:
            self.error = task.exception()
            self.result = None if self.error is not None else task.result()

    def send(self, value: Any) -> Any:
        try:
            return self._body.send(value)
        except EXITS as exc:
            self._leave(exc)

    def throw(self, *args: Any) -> Any:
        pending, self._pending = self._pending, None
        if pending is not None:
            assert self.task is not None
            self.task.uncancel()  # or asyncio.timeout and TaskGroup would go on taking it for a cancellation
            args = (pending,)
        try:
            return self._body.throw(*args)
        except EXITS as exc:
            self._leave(exc)

    def close(self) -> None:
        self._body.close()

    def _leave(self, exc: BaseException) -> NoReturn:
        """Tell the waiting greenlet of ``exc``, and asyncio that the coroutine has returned."""
        self.error = exc
        raise StopIteration

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._body.__await__()


class NativeLoop(asyncio.SelectorEventLoop):
    """An event loop whose helper threads (``asyncio.to_thread``, name lookups) are native ones."""

    def __init__(self, library: Library) -> None:
        super().__init__(library.original("selectors", "EpollSelector")())
        self._start_thread = library.original("_thread", "start_new_thread")

    def run_in_executor(  # type: ignore[override]  # typed with TypeVarTuples there
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        if executor is not None:
            return super().run_in_executor(executor, func, *args)
        future = self.create_future()
        self._start_thread(self._work, (future, partial(func, *args)))
        return future

    def _work(self, future: asyncio.Future[Any], function: Callable[[], Any]) -> None:
        try:
            settle = partial(future.set_result, function())
        except BaseException as exc:  # it is the caller's, in the coroutine
            settle = partial(future.set_exception, exc)
        self.call_soon_threadsafe(lambda: None if future.done() else settle())


class EventLoop:
    """Owns the event loop and its thread; started by the first coroutine.

    ``run`` is called by any greenlet of the hub that made it (or by any thread, in pools without green threads).
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        self._guard = threading.Lock()  # held while starting and stopping
        self._loop: NativeLoop | None = None
        self._caller: HubCaller | None = None
        self._ended: Latch | None = None

    def run(self, body: Coroutine[Any, Any, Any]) -> Any:
        """Run ``body`` to its end with the caller's contextvars; return what it returns, raise what it raises.

        Other greenlets run meanwhile. See the rules above for exceptions raised in the caller while it waits.
        """
        call = Call(body)
        try:
            loop, caller = self._running()
            loop.call_soon_threadsafe(self._launch, loop, caller, call, contextvars.copy_context())
        except BaseException:  # a limit while the loop came up, or a loop that was stopped meanwhile
            body.close()
            raise
        while True:
            try:
                self._wait(loop, call)
                break
            except LoopDiedError:
                raise
            except Exception as exc:  # whatever it is, it was raised for the task: the coroutine may catch it
                # Without this greenlet's frames: the coroutine's own tell where the task is.
                loop.call_soon_threadsafe(call.interrupt, exc.with_traceback(None))
            except BaseException:
                self._cancel(loop, call)
                raise
        if call.error is not None:
            raise call.error
        return call.result

    def stop(self) -> None:
        """Cancel what runs, end the loop and its thread. Harmless before the first ``run`` and twice."""
        with self._guard:
            loop, caller, ended = self._loop, self._caller, self._ended
            self._loop = self._caller = self._ended = None
        if loop is None or caller is None or ended is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        if not ended.wait(STOP_TIMEOUT):
            logger.warning("the event loop of async tasks has not ended after %g s; it is left behind", STOP_TIMEOUT)
            return  # its caller stays open: the thread may still use it
        caller.close()

    def _running(self) -> tuple[NativeLoop, HubCaller]:
        with self._guard:
            if self._loop is None or self._caller is None or self._loop.is_closed():
                self._start()
            assert self._loop is not None
            assert self._caller is not None
            return self._loop, self._caller

    def _start(self) -> None:
        caller, ended, up = self._library.make_caller(), Latch(), Latch()
        made: list[NativeLoop] = []
        start_thread = self._library.original("_thread", "start_new_thread")
        start_thread(self._serve, (made, partial(caller.call, up.open), partial(caller.call, ended.open)))
        try:
            if not up.wait(START_TIMEOUT) or not made:
                raise RuntimeError(f"the event loop for async tasks did not start within {START_TIMEOUT:g} s")
        except BaseException:
            if made:
                made[0].call_soon_threadsafe(made[0].stop)
            raise
        self._loop, self._caller, self._ended = made[0], caller, ended

    def _serve(self, made: list[NativeLoop], tell_up: Callable[[], None], tell_ended: Callable[[], None]) -> None:
        """The native thread's life. Sockets of the loop are made here, by the thread that uses them."""
        try:
            try:
                loop = NativeLoop(self._library)
                asyncio.set_event_loop(loop)
                made.append(loop)
            finally:
                tell_up()
            try:
                run_on(loop)
            finally:
                end_all(loop)
                loop.close()
        except BaseException:  # nothing is above this in a bare thread
            logger.exception("the event loop of async tasks failed")
        finally:
            tell_ended()

    @staticmethod
    def _launch(loop: NativeLoop, caller: HubCaller, call: Call, context: contextvars.Context) -> None:
        """Start the coroutine. In the loop's thread."""

        def on_done(task: asyncio.Task[Any]) -> None:
            call.finish(task)
            caller.call(call.done.open)

        call.task = loop.create_task(call, context=context)
        call.task.add_done_callback(on_done)

    @staticmethod
    def _wait(loop: NativeLoop, call: Call) -> None:
        while not call.done.wait(LOOK_INTERVAL):
            if loop.is_closed():
                raise LoopDiedError("the event loop of async tasks ended before the task did")

    @staticmethod
    def _cancel(loop: NativeLoop, call: Call) -> None:
        loop.call_soon_threadsafe(call.cancel)
        if not call.done.wait(CANCEL_TIMEOUT):
            logger.warning("%r has not ended %g s after it was cancelled; it is left behind", call.task, CANCEL_TIMEOUT)


def run_on(loop: asyncio.AbstractEventLoop) -> None:
    """Run until ``loop.stop()``, whatever the tasks raise that coroutines start by themselves."""
    while True:
        try:
            loop.run_forever()
            return
        except EXITS as exc:
            logger.warning("a task that an async task started raised %r; the event loop goes on for the others", exc)


def end_all(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel every task of the loop and give them a while to end, in the loop's thread."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=CANCEL_TIMEOUT / 2))
    loop.run_until_complete(loop.shutdown_asyncgens())
