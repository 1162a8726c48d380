"""What becomes of a request once it has an outcome: the stored result, then its delivery. One table says it all.

Order, for every outcome: the result is stored, then what replaces the delivery (a retry, the links of the task) is
confirmed, then the delivery is acked. Each step begins when the one before is proven, in whatever greenlet proves it;
none of them waits in a slot.

A delivery that was acked early, when its task started, ignores every later settlement (``Delivery.settle``). So the
table needs a second column only for what cannot be done without the delivery.
"""

from __future__ import annotations

import enum
import functools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greenworker.app.app import App
from greenworker.app.retries import retry_message
from greenworker.broker.dead_letters import DeadLetters
from greenworker.broker.delivery import Delivery, Settlement
from greenworker.broker.publisher import Outgoing, Replacement
from greenworker.broker.replacer import Fate, Replacer
from greenworker.clock import Clock
from greenworker.errors import EncodeError, NotRegistered, Reject, TaskLostError, TaskRevokedError
from greenworker.execution.ledger import Ledger
from greenworker.execution.links import Link, Links, children
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
from greenworker.execution.request import Move, Request, Stage
from greenworker.execution.task_log import TaskLog
from greenworker.protocol.message import TaskMessage
from greenworker.protocol.results import FAILURE, RETRY, REVOKED, STARTED, SUCCESS, ResultMeta
from greenworker.results.base import ResultStore
from greenworker.results.record import unstorable

logger = logging.getLogger(__name__)


class Disposal(enum.Enum):
    """What becomes of the delivery."""

    ACK = "ack"
    RETRY = "the retry is published, then ack"
    REJECT = "dead-letter queue or requeue, as the task asked"
    REQUEUE = "back to its queue"
    LOST = "nothing to give back: it was acked early"


@dataclass(frozen=True, slots=True)
class Rule:
    """The stored state (None: no result), and the disposal of a delivery that is acked late, or was acked early."""

    state: str | None
    late: Disposal
    early: Disposal


RULES: Mapping[type[Outcome], Rule] = {
    Succeeded: Rule(SUCCESS, Disposal.ACK, Disposal.ACK),
    Failed: Rule(FAILURE, Disposal.ACK, Disposal.ACK),
    TimedOut: Rule(FAILURE, Disposal.ACK, Disposal.ACK),
    Retried: Rule(RETRY, Disposal.RETRY, Disposal.RETRY),
    Revoked: Rule(REVOKED, Disposal.ACK, Disposal.ACK),
    Ignored: Rule(None, Disposal.ACK, Disposal.ACK),
    Rejected: Rule(FAILURE, Disposal.REJECT, Disposal.LOST),  # as in Celery 5.7: it never runs again
    PutBack: Rule(None, Disposal.REQUEUE, Disposal.LOST),
}
REJECTED_TO_QUEUE = Rule(None, Disposal.REJECT, Disposal.LOST)  # Rejected with requeue: it runs again


def rule_of(outcome: Outcome) -> Rule:
    """The row that counts for ``outcome``."""
    return REJECTED_TO_QUEUE if isinstance(outcome, Rejected) and outcome.requeue else RULES[type(outcome)]


class Settler:
    """Settles requests. ``settle`` is called from slots alone, and at shutdown: the results store makes a caller wait
    when its queue is full, which is how a store that cannot keep up slows the tasks, and must not stop the loop.
    """

    def __init__(
        self,
        *,
        app: App,
        results: ResultStore,
        replacer: Replacer,
        links: Links,
        dead_letters: DeadLetters,
        ledger: Ledger,
        clock: Clock,
        task_log: TaskLog,
        hostname: str,
    ) -> None:
        self._app = app
        self._results = results
        self._replacer = replacer
        self._links = links
        self._dead_letters = dead_letters
        self._ledger = ledger
        self._clock = clock
        self._task_log = task_log
        self._hostname = hostname

    def started(self, request: Request) -> None:
        """The body is about to run: ack now if the task acks early, and leave a STARTED result if it asks for one."""
        if not request.acks_late:
            request.delivery.ack()
        if request.task.track_started and not request.ignore_result:
            where = {"pid": os.getpid(), "hostname": self._hostname}
            self._results.store(ResultMeta.of(request.message, STARTED, where), _go_on)

    def settle(self, request: Request, outcome: Outcome) -> None:
        """See ``request``, whose stage is FINISHED, through to its end."""
        self._task_log.done(request, outcome, self._clock.monotonic() - request.started_at)
        rule = rule_of(outcome)
        disposal = rule.late if request.delivery.settled is None else rule.early
        if disposal is Disposal.LOST:
            logger.error(
                "Task %s acked its message when it started, so the message cannot go back and is lost", request
            )
            if isinstance(outcome, PutBack):
                outcome, rule = Failed(TaskLostError("the worker stopped while it ran"), ""), RULES[Failed]
            disposal = Disposal.ACK
        links = self._links.of(request, outcome) if request.message.linked else ()
        if rule.state is None or request.ignore_result:
            self._dispose(request, outcome, disposal, links)
            return
        meta = self._meta(request, outcome, rule.state)
        if links:
            meta.children = children(links)
        self._store(request, outcome, meta, disposal, links)

    def refuse(self, message: TaskMessage, delivery: Delivery, exc: NotRegistered) -> None:
        """A message that no task is registered for fails, so that its sender does not wait, and is buried."""
        bury = functools.partial(self._dead_letters.bury, delivery, "unknown", str(exc))
        if message.ignore_result:
            bury()
            return
        now = self._clock.utcnow()
        self._results.store(ResultMeta.of(message, FAILURE, exc, date_done=now), bury)

    # --- results ------------------------------------------------------------------------------------------------

    def _meta(self, request: Request, outcome: Outcome, state: str) -> ResultMeta:
        result: Any
        trace: str | None = None
        match outcome:
            case Succeeded(value):
                result = value
            case Failed(exc, trace):
                result = exc
            case Retried(retry, trace):
                result = retry.exc if retry.exc is not None else retry
            case TimedOut(_, trace):
                result = outcome.error()
            case Revoked(reason):
                result = TaskRevokedError(reason)
            case Rejected(reason, requeue):
                result = Reject(reason, requeue)
            case _:
                raise AssertionError(f"{outcome} leaves no result")
        done_at = None if state == RETRY else self._clock.utcnow()
        return ResultMeta.of(request.message, state, result, traceback=trace or None, date_done=done_at)

    def _store(
        self, request: Request, outcome: Outcome, meta: ResultMeta, disposal: Disposal, links: Sequence[Link] = ()
    ) -> None:
        """Store ``meta``; the delivery follows when it is stored."""
        try:
            self._results.store(meta, functools.partial(self._dispose, request, outcome, disposal, links))
            return
        except EncodeError as exc:
            logger.error("Task %s: its result cannot be stored: %s", request, exc)
            meta = unstorable(meta, exc)
        if isinstance(outcome, Succeeded) and request.message.linked:  # whoever reads the result reads a failure
            links = self._links.of(request, Failed(meta.result, ""))
            meta.children = children(links)
        self._results.store(meta, functools.partial(self._dispose, request, outcome, disposal, links))

    # --- deliveries ---------------------------------------------------------------------------------------------

    def _dispose(self, request: Request, outcome: Outcome, disposal: Disposal, links: Sequence[Link] = ()) -> None:
        delivery = request.delivery
        match disposal:
            case Disposal.ACK if links:
                self._links.send(request, links, functools.partial(self._finish, request))
                return
            case Disposal.ACK:
                delivery.ack()
            case Disposal.REQUEUE:
                delivery.requeue()
            case Disposal.REJECT:
                assert isinstance(outcome, Rejected)
                if not outcome.requeue:
                    letter = self._dead_letters.letter(delivery, "rejected", outcome.reason)
                    last = [] if letter is None else [Link(request.message.id, request.message.task, letter)]
                    self._dispose(request, outcome, Disposal.ACK, [*links, *last])
                    return
                delivery.requeue()
            case Disposal.RETRY:
                assert isinstance(outcome, Retried)
                self._retry(request, outcome)
                return
        self._finish(request)

    def _retry(self, request: Request, outcome: Retried) -> None:
        if outcome.retry.sent:  # the task sent it itself, confirmed, and went on
            request.delivery.ack()
            self._finish(request)
            return
        message, _ = retry_message(request.message, outcome.retry, self._clock.utcnow())
        try:
            outgoing = self._app.outgoing_retry(message, outcome.retry, request.delivery.queue)
        except EncodeError as exc:
            self._fail(request, exc)
            return
        self.replace(request, outgoing)

    def replace(self, request: Request, outgoing: Outgoing) -> None:
        """Publish ``outgoing`` in place of the request's message; then the request is done with."""
        replacement = Replacement(request.delivery, outgoing)
        self._replacer.put(replacement, functools.partial(self._replaced, request, replacement))

    def _replaced(self, request: Request, replacement: Replacement, fate: Fate) -> None:
        came_again = request.delivery is not replacement.delivery  # and was adopted while the replacer was at work
        if fate is Fate.PUBLISHED:
            if came_again:
                request.delivery.ack()
            self._finish(request)
        elif fate is Fate.UNSENDABLE:
            self._fail(request, EncodeError("the message that should replace the task's own cannot be encoded"))
        elif came_again:
            self.replace(request, replacement.outgoing)
        else:
            self._finish(request)

    def _fail(self, request: Request, exc: EncodeError) -> None:
        logger.error("Task %s: its next message cannot be sent, it has failed: %s", request, exc)
        failed = Failed(exc, "")
        self._store(request, failed, self._meta(request, failed, FAILURE), Disposal.ACK)

    def _finish(self, request: Request) -> None:
        if request.stage is Stage.FINISHED:
            request.move(Move.SETTLE)
        if request.delivery.settled is Settlement.ACK:
            self._ledger.finish(request, self._clock.monotonic())
        else:
            self._ledger.remove(request)


def _go_on() -> None:
    """A state that no delivery waits for, but that no more than one delivery each leaves: storing it need not wait."""
