"""Shutdown: close, drain, put back, stop, in this order and each within its time, so that it always ends.

Order and reasons: consuming stops first, so that what was prefetched is back on its queue for other workers at once;
the connection stays until the last settlement is written; only then does the loop end. The guardian ends the process if
even that hangs (a task that computes and never yields, a loop that does not come back).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from greenworker.consumer.consumer import Consumer
from greenworker.execution.dispatch import Dispatcher
from greenworker.execution.ledger import Ledger
from greenworker.worker.signals import End

logger = logging.getLogger(__name__)

INTERRUPT_TIMEOUT = 2.0  # for interrupted bodies to clean up and their messages to be given back
SETTLE_TIMEOUT = 3.0  # for what is abandoned to be written
HANG_TIMEOUT = 25.0  # for all that comes after ``shutdown_timeout``; then the guardian ends the process
TURN = 0.25  # how soon a cold shutdown is noticed by a warm one


def patience(end: End, shutdown_timeout: float) -> float:
    """Within how many seconds a process that was asked for ``end`` must be gone."""
    return HANG_TIMEOUT + (shutdown_timeout if end is End.WARM else 0.0)


class Shutdown:
    """Ends a worker, once. Called from the signals' thread.

    ``put_back`` is how many tasks could not be finished: written here, read for the exit code.
    """

    def __init__(
        self,
        consumer: Consumer,
        dispatcher: Dispatcher,
        ledger: Ledger,
        *,
        timeout: float,
        end_within: Callable[[float], None],
        close_steps: Callable[[], None],
    ) -> None:
        """``end_within`` is the guardian's: the process ends within so many seconds, come what may.

        ``close_steps`` closes the worker's blueprint.
        """
        self.put_back = 0
        self._consumer = consumer
        self._dispatcher = dispatcher
        self._ledger = ledger
        self._timeout = timeout
        self._end_within = end_within
        self._close_steps = close_steps
        self._lock = threading.Lock()
        self._begun = False
        self._cold = threading.Event()

    @property
    def begun(self) -> bool:
        """Whether any shutdown was asked for."""
        return self._begun

    def ask(self, end: End) -> None:
        """``warm``: take no new work, wait for running tasks, put back what runs longer than the timeout.

        ``cold``: put running tasks back now; also ends a warm shutdown that is on its way. Does not wait.
        """
        self._end_within(patience(end, self._timeout))
        if end is End.COLD:
            self._cold.set()
            self._begin("Cold shutdown: putting running tasks back")
        else:
            self._begin(f"Warm shutdown: taking no new work, waiting up to {self._timeout:g} s for running tasks")

    def _begin(self, message: str) -> None:
        with self._lock:
            if self._begun:
                return
            self._begun = True
        logger.warning("%s", message)
        threading.Thread(target=self._run, name="shutdown", daemon=True).start()

    def _run(self) -> None:
        self._consumer.close()  # first, and whether or not its step has started
        try:
            self._close_steps()
            if not self._drained():
                self._put_back()
        finally:
            self._consumer.stop()

    def _drained(self) -> bool:
        """Wait for running tasks, in short turns so that a cold shutdown is noticed."""
        deadline = time.monotonic() + self._timeout
        while not self._cold.is_set() and (left := deadline - time.monotonic()) > 0:
            if self._ledger.wait_empty(min(left, TURN)):
                return True
        return self._ledger.wait_empty(0.0)

    def _put_back(self) -> None:
        self.put_back = self._dispatcher.put_back_running()
        logger.warning("Putting %d running tasks back on their queues", self.put_back)
        if self._ledger.wait_empty(INTERRUPT_TIMEOUT):
            return
        abandoned = self._dispatcher.abandon_running()
        if abandoned:
            logger.warning("%d tasks do not end; their messages go back all the same", abandoned)
        if not self._ledger.wait_empty(SETTLE_TIMEOUT):
            self.put_back = max(self.put_back, len(self._ledger))
            logger.error("%d tasks could not be settled; the broker delivers them again", len(self._ledger))
