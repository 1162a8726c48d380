"""The WorkController: one worker process, its blueprint, its consumer and its end."""

from __future__ import annotations

import functools
import logging
import math
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any

from greenworker.app.app import App
from greenworker.bootsteps import Blueprint
from greenworker.broker.delivery import QueueSpec
from greenworker.clock import Clock, SystemClock
from greenworker.clock import Timer as TimerProtocol
from greenworker.consumer.consumer import Consumer as BrokerConsumer
from greenworker.errors import EXIT_OK, EXIT_PUT_BACK, EXIT_SOFTWARE
from greenworker.execution.dispatch import Dispatcher
from greenworker.execution.ledger import Ledger
from greenworker.execution.pool import CAPABILITIES
from greenworker.execution.pool import Pool as PoolProtocol
from greenworker.green.base import Library
from greenworker.green.greens import library
from greenworker.settings import Settings
from greenworker.signals import worker_init, worker_ready, worker_shutdown, worker_shutting_down
from greenworker.worker.consumer import Consumer
from greenworker.worker.guardian import Guardian
from greenworker.worker.hub import Hub
from greenworker.worker.pool import Pool
from greenworker.worker.queues import Queues
from greenworker.worker.shutdown import Shutdown, patience
from greenworker.worker.signals import END_SIGNALS, End, EndSignals, SignalListener
from greenworker.worker.steps import user_steps
from greenworker.worker.timer import Timer

logger = logging.getLogger(__name__)

STEPS = (Timer, Hub, Queues, Pool, Consumer)
EXIT_TIMEOUT = 5.0  # seconds for the interpreter to end when all is stopped: it waits for threads that tasks left


class WorkController:
    """Builds the parts of a worker and runs its consumer in the calling thread.

    Immutable: app, settings, hostname, library, capabilities, clock, ledger. Written by the step of the same name, in
    its ``create``: timer, hub, queues, pool, consumer; and dispatcher (Consumer). Everybody reads them.
    """

    timer: TimerProtocol
    queues: Mapping[str, QueueSpec]
    pool: PoolProtocol
    consumer: BrokerConsumer
    dispatcher: Dispatcher

    def __init__(
        self, app: App, settings: Settings, *, clock: Clock | None = None, on_ready: Callable[[str], None] | None = None
    ) -> None:
        """``on_ready`` is called with the node's name at the first start of consuming."""
        app.import_tasks()  # done already where a command has loaded the app by its name
        app.set_current()
        self.app = app
        self.settings = settings
        self.hostname = node_name(settings.worker.name, socket.gethostname())
        self.library: Library = library(settings.worker.pool)
        self.capabilities = CAPABILITIES[settings.worker.pool]
        self.clock = clock or SystemClock()
        self.ledger = Ledger(
            unproven_limit=math.ceil(settings.worker.concurrency * settings.worker.prefetch_multiplier)
            + settings.worker.deferred_limit
        )
        self.hub: Any = None
        self.consumer_steps = user_steps("consumer", settings.consumer.steps)
        self.task_log_level = logging.getLevelName(settings.log.tasks)
        self._announce = on_ready
        self._was_ready = False  # written by the consumer's loop
        self._heard, self._acted_on = EndSignals(), EndSignals()  # the guardian's and the listener's count
        self.blueprint: Blueprint[WorkController] = Blueprint(
            "Worker", STEPS, user_steps("worker", settings.worker.steps)
        )
        worker_init.send(self)
        self.blueprint.apply(self)
        self.guardian = Guardian(self.library, self._patience)
        self.shutdown = Shutdown(
            self.consumer,
            self.dispatcher,
            self.ledger,
            timeout=settings.worker.shutdown_timeout,
            end_within=self.guardian.end_within,
            close_steps=functools.partial(self.blueprint.close, self),
        )

    def run(self) -> int:
        """Work until a signal ends it; returns the exit code. Raises BrokerError if the broker refuses our login."""
        with SignalListener(END_SIGNALS, self._act, self.guardian):
            self.guardian.exit_code = exit_code = self.work()
        return exit_code

    def work(self) -> int:
        """The same without listening for signals, in any thread: until ``shutdown`` is asked to end it."""
        self.blueprint.start(self)
        try:
            self.consumer.run()
        finally:
            self._stop()
        return self._exit_code()

    def _stop(self) -> None:
        """Stop all steps; without waiting any longer for tasks whose messages were put back."""
        if self.shutdown.put_back:
            self.blueprint.terminate(self)
            logger.warning("Stopped; %d running tasks were put back", self.shutdown.put_back)
        else:
            self.blueprint.stop(self)
        worker_shutdown.send(self)
        if self.guardian.counting:
            self.guardian.end_within(EXIT_TIMEOUT)

    def _exit_code(self) -> int:
        if self.shutdown.put_back:
            return EXIT_PUT_BACK
        return EXIT_OK if self.shutdown.begun else EXIT_SOFTWARE

    def _act(self, signum: signal.Signals) -> None:
        end = self._acted_on.wish(signum)
        if end is not None:
            self.shutdown.ask(end)  # first: a receiver that hangs must not keep the worker alive
            exit_code = EXIT_OK if end is End.WARM else EXIT_PUT_BACK
            worker_shutting_down.send(self.hostname, sig=signum.name, how=end.value.title(), exitcode=exit_code)

    def _patience(self, signum: signal.Signals) -> float | None:
        """The guardian's. It counts signals for itself: the listener may not get to run."""
        end = self._heard.wish(signum)
        return None if end is None else patience(end, self.settings.worker.shutdown_timeout)

    def on_ready(self, consumer: BrokerConsumer) -> None:
        """The consumer has started, for the first time or again."""
        if self._was_ready:
            logger.info("Connected again, consuming")
            return
        self._was_ready = True
        worker_ready.send(consumer)
        if self._announce is not None:
            self._announce(self.hostname)

    def wake(self) -> None:
        """End the wait of the consumer's loop."""
        self.consumer.wake()

    def call_soon(self, call: Callable[[], None]) -> None:
        """Run ``call`` in the consumer's loop."""
        self.consumer.call_soon(call)


def node_name(template: str, host: str) -> str:
    """``%h`` is the host's name, ``%n`` its first part, ``%d`` the rest; without ``@`` the host is added."""
    first, _, rest = host.partition(".")
    name = template.replace("%h", host).replace("%n", first).replace("%d", rest).replace("%%", "%")
    return name if "@" in name else f"{name}@{host}"
