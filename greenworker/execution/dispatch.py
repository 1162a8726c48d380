"""Brings requests to their slots: at once, when they are due, or not at all.

Rules this file keeps:

* The loop alone admits, defers and submits. A timer that is due only asks the loop to (``call_soon``).
* At most ``deferred_limit`` requests wait here for an ETA or a rate limit, and none for long; the rest is parked on the
  broker, so that a million ETA tasks neither fill this process nor keep the others from being delivered.
* A request that was settled from outside while its body ran (shutdown) drops its late outcome, and says so.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from greenworker.broker.delivery import Delivery
from greenworker.broker.publisher import Outgoing
from greenworker.clock import Clock, Timer
from greenworker.errors import NotRegistered
from greenworker.execution import task_signals
from greenworker.execution.admission import Admission, Defer, Drop, Start
from greenworker.execution.executor import Executor, interrupt
from greenworker.execution.ledger import Ledger
from greenworker.execution.outcome import Outcome, PutBack, Revoked
from greenworker.execution.pool import Pool, PoolClosedError, Run
from greenworker.execution.release import Releases
from greenworker.execution.request import IllegalStageError, Move, Request, Stage
from greenworker.execution.settlement import Settler
from greenworker.protocol.message import TaskMessage

logger = logging.getLogger(__name__)

FAULT_DELAY = 5.0  # seconds that a message which could not be settled is kept from coming back
LONGEST_DEFERRAL = 600.0  # seconds: RabbitMQ closes on who keeps a message for 30 minutes (its consumer_timeout)
SHORTEST_PARK = 1.0  # RabbitMQ's delay queues count whole seconds


class Dispatcher:
    """What happens to a request from its receipt on. ``deferred`` is written by the loop, read by the prefetch."""

    def __init__(
        self,
        *,
        pool: Pool,
        admission: Admission,
        executor: Executor,
        settler: Settler,
        ledger: Ledger,
        timer: Timer,
        clock: Clock,
        call_soon: Callable[[Callable[[], None]], None],
        deferred_limit: int,
        can_park: bool,
        releases: Releases | None = None,
    ) -> None:
        self.deferred = 0
        self._pool = pool
        self._admission = admission
        self._executor = executor
        self._settler = settler
        self._ledger = ledger
        self._timer = timer
        self._clock = clock
        self._call_soon = call_soon
        self._deferred_limit = deferred_limit
        self._can_park = can_park
        self._releases = releases or None  # None: nothing is named, which is asked once a task
        self._job = self._perform  # one bound method for all

    # --- in the loop --------------------------------------------------------------------------------------------

    def admit(self, request: Request) -> None:
        """Run it, defer it or drop it."""
        match self._admission.decide(request):
            case Start():
                self._submit(request)
            case Drop(outcome):
                request.stopping = outcome  # settled in a slot: storing the result may have to wait
                self._submit(request)
            case Defer() as defer:
                self._defer(request, defer)

    def refuse(self, message: TaskMessage, delivery: Delivery, exc: NotRegistered, consumer: Any) -> None:
        """There is no task for it: in a slot, a FAILURE result is stored; then it goes to the dead-letter queue.

        ``consumer`` is the sender of the signal ``task_unknown``.
        """
        try:
            self._pool.submit(functools.partial(self._refuse, message, delivery, exc, consumer))
        except PoolClosedError:
            delivery.requeue()

    def _refuse(self, message: TaskMessage, delivery: Delivery, exc: NotRegistered, consumer: Any, run: Run) -> None:
        task_signals.unknown(message, delivery, exc, consumer)
        self._settler.refuse(message, delivery, exc)

    def give_back(self) -> None:
        """Requeue everything that has not started: at shutdown, and when the connection is lost."""
        for request in self._ledger.at(Stage.WAITING):
            if request.run is not None and request.run.cancel():
                self._requeue(request)
        for request in self._ledger.at(Stage.DEFERRED):
            if request.timer is not None:
                request.timer.cancel()
            self.deferred -= 1
            self._requeue(request)

    def _submit(self, request: Request) -> None:
        request.move(Move.SUBMIT)
        try:
            request.run = self._pool.submit(self._job, request)
        except PoolClosedError:
            self._requeue(request)

    def _defer(self, request: Request, defer: Defer) -> None:
        if self._can_park and (self.deferred >= self._deferred_limit or defer.delay > LONGEST_DEFERRAL):
            self._park(request, defer)
            return
        request.move(Move.DEFER)
        self.deferred += 1
        admitted = defer.bucket is not None  # its start is reserved: asking again would cost another one
        request.timer = self._timer.call_later(
            defer.delay, functools.partial(self._call_soon, functools.partial(self._due, request, admitted))
        )

    def _park(self, request: Request, defer: Defer) -> None:
        delay = defer.delay if defer.bucket is None else defer.bucket.park()
        delivery = request.delivery
        request.move(Move.SETTLE)
        outgoing = Outgoing(delivery.envelope, delivery.queue, delay=max(delay, SHORTEST_PARK))
        self._settler.replace(request, outgoing)

    def _due(self, request: Request, admitted: bool) -> None:
        if request.stage is not Stage.DEFERRED:
            return  # given back meanwhile
        self.deferred -= 1
        if admitted:
            self._submit(request)
        else:
            self.admit(request)

    def _requeue(self, request: Request) -> None:
        request.move(Move.SETTLE)
        request.delivery.requeue()
        self._ledger.remove(request)

    # --- in the slot --------------------------------------------------------------------------------------------

    def _perform(self, run: Run) -> None:
        """The life of a request, the run's subject, in its slot."""
        request: Request = run.subject
        try:
            outcome = self._outcome(request, run)
            if request.stage is Stage.SETTLED or request.stage is Stage.FINISHED:
                logger.warning("Task %s ended after it was settled; dropped: %s", request, type(outcome).__name__)
                return
            request.move(Move.FINISH)
            self._settler.settle(request, outcome)
        except BaseException:
            # A fault of our own, or a timeout that the task left running: it must cost neither the slot nor the
            # message, which the broker gets back.
            logger.exception(
                "Task %s could not be settled, its message goes back to queue %s in %g s",
                request,
                request.delivery.queue,
                FAULT_DELAY,
            )
            # Not at once: it would come back at once, and the worker would do nothing else.
            self._timer.call_later(FAULT_DELAY, functools.partial(self._give_up, request))
        finally:
            if self._releases is not None:
                self._releases(request, run)

    def _give_up(self, request: Request) -> None:
        request.delivery.requeue()
        self._ledger.remove(request)

    def _outcome(self, request: Request, run: Run) -> Outcome:
        request.run = run
        request.started_at = self._clock.monotonic()
        request.move(Move.START)
        unwanted = self._unwanted(request)
        if unwanted is not None:
            task_signals.unwanted(request, unwanted, self._clock)
            return unwanted
        self._settler.started(request)
        return self._executor.execute(request, run)

    def _unwanted(self, request: Request) -> Outcome | None:
        """The outcome of a request that must not run: revoked or expired while it waited for its slot."""
        expires = request.message.expires
        if request.stopping is None and expires is not None and expires <= self._clock.utcnow():
            return Revoked("expired")
        return request.stopping

    # --- at shutdown --------------------------------------------------------------------------------------------

    def put_back_running(self) -> int:
        """Put back the message of every running task; returns how many there were. Does not wait.

        A body that can be interrupted is, and its message follows when it has cleaned up. In pools that cannot do it
        the message goes at once: waiting would not change anything.
        """
        running = self._ledger.at(Stage.RUNNING)
        for request in running:
            if request.run is None or not interrupt(request, request.run, PutBack()):
                self._abandon(request)
        return len(running)

    def abandon_running(self) -> int:
        """Put back the messages of bodies that swallowed their interruption; returns how many there were."""
        running = self._ledger.at(Stage.RUNNING)
        for request in running:
            self._abandon(request)
        return len(running)

    def _abandon(self, request: Request) -> None:
        try:
            request.move(Move.FINISH)
        except IllegalStageError:
            return  # its thread was faster: it has an outcome of its own
        self._settler.settle(request, PutBack())
