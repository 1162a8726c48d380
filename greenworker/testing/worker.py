"""A worker in a thread of the test's own process: what the real one is made of, without its signals."""

from __future__ import annotations

import threading
from typing import Self

from greenworker.app.app import App
from greenworker.settings import Settings
from greenworker.worker.controller import WorkController
from greenworker.worker.shutdown import HANG_TIMEOUT
from greenworker.worker.signals import End

START_TIMEOUT = 10.0


class InProcessWorker:
    """Runs tasks from the start of its block to its end.

    At the end, tasks that run are waited for, for ``[worker] shutdown_timeout``.
    """

    def __init__(self, app: App, settings: Settings) -> None:
        """``settings`` must name a pool that needs no patching: threads or solo."""
        self.app = app
        self._settings = settings
        self._controller: WorkController | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None  # written by the thread, before it ends
        self._thread = threading.Thread(target=self._run, name="greenworker-in-process", daemon=True)

    def __repr__(self) -> str:
        return f"<InProcessWorker of {self.app.name}>"

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT) or self._failure is not None:
            self._end()
            raise RuntimeError("the in-process worker did not start") from self._failure
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end()
        if self._failure is not None:
            raise RuntimeError("the in-process worker failed") from self._failure

    def _run(self) -> None:
        try:
            # Here and not in the test's thread: the broker's file is opened by the thread that will use it.
            self._controller = WorkController(self.app, self._settings, on_ready=lambda name: self._ready.set())
            self._controller.work()
        except BaseException as exc:  # for the test's thread, which raises it
            self._failure = exc
        finally:
            self._ready.set()

    def _end(self) -> None:
        if self._controller is not None:
            self._controller.shutdown.ask(End.WARM)
        self._thread.join(self._settings.worker.shutdown_timeout + HANG_TIMEOUT)
        if self._thread.is_alive():
            raise RuntimeError("the in-process worker does not end: a task of this test still runs")
