"""The consumer: its blueprint, its loop's inbox, and the life from connection to connection.

Rules this file keeps:

* One greenlet (or thread) runs ``Consumer.run``. It alone touches the source, but for settlements; others reach it by
  ``call_soon``.
* A lost connection ends the loop and stops the blueprint; running tasks go on, everything that had not started is
  forgotten, for the broker delivers it again. The next connection begins with a new source.
* ``close`` takes no new work, ``stop`` ends the loop. Both only ask, from any greenlet or thread, at any time.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from greenworker.app.app import App
from greenworker.bootsteps import Blueprint, Placement
from greenworker.broker.connection import ConnectionLostError
from greenworker.broker.delivery import QueueSpec
from greenworker.broker.source import Source
from greenworker.consumer.connection import Connection
from greenworker.consumer.delayed_delivery import DelayedDelivery
from greenworker.consumer.evloop import Evloop
from greenworker.consumer.pause import Pause
from greenworker.consumer.prefetch import Prefetch
from greenworker.consumer.strategy import Strategy, TaskServices
from greenworker.consumer.tasks import Intake, Tasks
from greenworker.errors import BrokerError
from greenworker.execution.pool import Pool
from greenworker.green.base import LoopWaiter
from greenworker.results.base import ResultStore
from greenworker.settings import Settings

logger = logging.getLogger(__name__)

STEPS = (Connection, Tasks, DelayedDelivery, Evloop)


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """What the worker hands to its consumer: everything that outlives a connection."""

    app: App
    settings: Settings
    hostname: str
    queues: Mapping[str, QueueSpec]
    pool: Pool
    hub: Any  # kombu's Hub, or None where the pool is green or the broker has no asynchronous transport
    make_waiter: Callable[[], LoopWaiter]
    services: TaskServices
    results: ResultStore


class Consumer:
    """Reads one broker connection after another and hands deliveries on.

    Immutable: parts, blueprint, intake, prefetch. Written by steps, in the loop's greenlet: source (Connection),
    loop (Evloop), the intake's strategies (Tasks). ``closing`` and ``stopping`` are set once, by anyone.
    """

    def __init__(
        self,
        parts: WorkerParts,
        *,
        extra_steps: Iterable[Placement] = (),
        on_ready: Callable[[Consumer], None] | None = None,
    ) -> None:
        self.parts = parts
        self.blueprint: Blueprint[Consumer] = Blueprint("Consumer", STEPS, extra_steps)
        self.source: Source | None = None
        self.intake = Intake(self)
        self.loop: Callable[[], None] | None = None
        self.prefetch = Prefetch(
            parts.pool, parts.settings.worker.prefetch_multiplier, parts.settings.worker.deferred_limit
        )
        self.pause = Pause(parts.queues, lambda: parts.results.full)
        self.closing = threading.Event()
        self.stopping = threading.Event()
        self._calls: deque[Callable[[], None]] = deque()
        self._on_ready = on_ready
        self._has_consumed = False  # written by the loop: a start went well, so that the settings are right
        self.blueprint.apply(self)

    @property
    def strategies(self) -> dict[str, Strategy]:
        """Task name -> what is done with its messages."""
        return self.intake.strategies

    # --- asked from anywhere ------------------------------------------------------------------------------------

    def call_soon(self, call: Callable[[], None]) -> None:
        """Run ``call`` in the loop's greenlet, at its next turn."""
        self._calls.append(call)
        self.wake()

    def close(self) -> None:
        """Take no new work: stop consuming and give back what has not started. Running tasks go on."""
        self.closing.set()
        self.call_soon(self._close)

    def stop(self) -> None:
        """End the loop; ``run`` returns when the connection is closed."""
        self.closing.set()
        self.stopping.set()
        self.wake()

    def wake(self) -> None:
        """End the loop's wait."""
        source = self.source
        if source is not None:
            source.wake()

    # --- the loop's greenlet ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Consume until ``stop``; reconnect as often as it takes.

        Raises BrokerError if the very first connection fails for a reason that trying again does not mend.
        """
        delays = self._reconnect_delays()
        while not self.stopping.is_set():
            try:
                self.blueprint.start(self)
                delays = self._reconnect_delays()
                if self.loop is not None:  # None: told to stop before the last step had started
                    self._ready()
                    self.loop()
            except ConnectionLostError as exc:
                logger.warning("Connection to the broker lost: %s. Running tasks go on.", exc)
            except BrokerError as exc:
                if not self._has_consumed and not self.closing.is_set():
                    raise  # wrong from the start: the operator is there to see it
                logger.log(logging.INFO if self.closing.is_set() else logging.ERROR, "Cannot consume: %s", exc)
            finally:
                self._end_connection()
            if self.closing.is_set():
                self._run_calls_until_stopped()
            else:
                self.closing.wait(next(delays))

    def run_calls(self) -> None:
        """Run what others asked for since the last turn."""
        for _ in range(len(self._calls)):
            call = self._calls.popleft()
            try:
                call()
            except ConnectionLostError:
                raise
            except Exception:  # one broken request of a step or a command must not end the loop for all tasks
                logger.exception("A call in the consumer's loop failed: %r", call)
        if self.source is not None and not self.closing.is_set():
            self.prefetch.apply(self.source, self.parts.services.dispatcher.deferred)
            self.pause.apply(self.source)

    def _close(self) -> None:
        self.blueprint.close(self)
        self.parts.services.dispatcher.give_back()

    def _ready(self) -> None:
        self._has_consumed = True
        if self._on_ready is not None and not self.closing.is_set():
            self._on_ready(self)

    def _end_connection(self) -> None:
        self.parts.services.dispatcher.give_back()
        self.blueprint.stop(self)
        self.source = None
        self.parts.services.ledger.connection_lost(self.parts.services.clock.monotonic())

    def _run_calls_until_stopped(self) -> None:
        """There is no connection any more and none is wanted: wait until the tasks are through."""
        while not self.stopping.wait(0.05):
            self.run_calls()

    def _reconnect_delays(self) -> Iterator[float]:
        broker = self.parts.settings.broker
        delay = broker.reconnect_delay
        while True:
            yield delay * random.uniform(0.5, 1.0)
            delay = min(delay * 2, broker.reconnect_delay_max)
