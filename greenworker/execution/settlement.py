"""What becomes of a request once it has an outcome: the stored result, then its delivery. One table says it all.

Order, for every outcome: the result is stored, then the message that replaces the delivery is confirmed, then the
delivery is acked. Each step begins when the one before is proven, in whatever greenlet proves it; none of them waits in
a slot.

A delivery that was acked early, when its task started, ignores every later settlement (``Delivery.settle``). So the
table needs a second column only for what cannot be done without the delivery.
"""

from __future__ import annotations

import enum
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from greenworker.app.app import App
from greenworker.app.retries import retry_message
from greenworker.broker.dead_letters import DeadLetters
from greenworker.broker.delivery import Delivery, Settlement
from greenworker.broker.publisher import Outgoing, Replacement
from greenworker.broker.replacer import Fate, Replacer
from greenworker.clock import Clock
from greenworker.errors import (
    EncodeError,
    NotRegistered,
    TaskLostError,
    TaskRevokedError,
    TimeLimitExceeded,
    UnstorableResultError,
)
from greenworker.execution.ledger import Ledger
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
from greenworker.protocol.display import bounded_repr
from greenworker.protocol.message import TaskMessage
from greenworker.protocol.results import FAILURE, RETRY, REVOKED, STARTED, SUCCESS, ResultMeta
from greenworker.results.base import ResultStore

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
    Rejected: Rule(None, Disposal.REJECT, Disposal.LOST),
    PutBack: Rule(None, Disposal.REQUEUE, Disposal.LOST),
}


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
        dead_letters: DeadLetters,
        ledger: Ledger,
        clock: Clock,
        task_log: TaskLog,
        hostname: str,
    ) -> None:
        self._app = app
        self._results = results
        self._replacer = replacer
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
            self._results.store(
                ResultMeta(
                    request.message.id, STARTED, {"hostname": self._hostname}, parent_id=request.message.parent_id
                )
            )

    def settle(self, request: Request, outcome: Outcome) -> None:
        """See ``request``, whose stage is FINISHED, through to its end."""
        self._task_log.done(request, outcome, self._clock.monotonic() - request.started_at)
        rule = RULES[type(outcome)]
        disposal = rule.late if request.delivery.settled is None else rule.early
        if disposal is Disposal.LOST:
            logger.error(
                "Task %s acked its message when it started, so the message cannot go back and is lost", request
            )
            if isinstance(outcome, PutBack):
                outcome, rule = Failed(TaskLostError("the worker stopped while it ran"), ""), RULES[Failed]
            disposal = Disposal.ACK
        if rule.state is None or request.ignore_result:
            self._dispose(request, outcome, disposal)
            return
        self._store(
            request, self._meta(request, outcome, rule.state), lambda: self._dispose(request, outcome, disposal)
        )

    def refuse(self, message: TaskMessage, delivery: Delivery, exc: NotRegistered) -> None:
        """A message that no task is registered for fails, so that its sender does not wait, and is buried."""
        bury = functools.partial(self._dead_letters.bury, delivery, "unknown", str(exc))
        if message.ignore_result:
            bury()
            return
        now = self._clock.utcnow()
        meta = ResultMeta(message.id, FAILURE, exc, date_done=now, parent_id=message.parent_id, group_id=message.group)
        self._results.store(meta, bury)

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
            case TimedOut(limit, trace):
                result = TimeLimitExceeded(limit)
            case Revoked(reason):
                result = TaskRevokedError(reason)
            case _:
                raise AssertionError(f"{outcome} leaves no result")
        message = request.message
        done_at = None if state == RETRY else self._clock.utcnow()
        return ResultMeta(
            message.id,
            state,
            result,
            traceback=trace or None,
            date_done=done_at,
            parent_id=message.parent_id,
            group_id=message.group,
        )

    def _store(self, request: Request, meta: ResultMeta, then: Callable[[], None]) -> None:
        try:
            self._results.store(meta, then)
            return
        except EncodeError as exc:
            logger.error("Task %s: its result cannot be stored: %s", request, exc)
            meta.result = UnstorableResultError(f"{bounded_repr(meta.result)}: {exc}")
        if meta.status == SUCCESS:
            meta.status = FAILURE
        self._results.store(meta, then)

    # --- deliveries ---------------------------------------------------------------------------------------------

    def _dispose(self, request: Request, outcome: Outcome, disposal: Disposal) -> None:
        delivery = request.delivery
        match disposal:
            case Disposal.ACK:
                delivery.ack()
            case Disposal.REQUEUE:
                delivery.requeue()
            case Disposal.REJECT:
                assert isinstance(outcome, Rejected)
                letter = None if outcome.requeue else self._dead_letters.letter(delivery, "rejected", outcome.reason)
                if letter is not None:
                    self.replace(request, letter)
                    return
                delivery.settle(Settlement.REQUEUE if outcome.requeue else Settlement.ACK)
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
        self._store(request, self._meta(request, failed, FAILURE), lambda: self._dispose(request, failed, Disposal.ACK))

    def _finish(self, request: Request) -> None:
        if request.stage is Stage.FINISHED:
            request.move(Move.SETTLE)
        if request.delivery.settled is Settlement.ACK:
            self._ledger.finish(request, self._clock.monotonic())
        else:
            self._ledger.remove(request)
