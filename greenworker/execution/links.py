"""What follows a task (app/links.py), made into messages in its slot, and sent before its delivery is acked.

Rules this file keeps:

* Every link is confirmed before the ack: the last one takes the delivery's place, those before it only go out. A
  process killed in between leaves the delivery to the broker, so that the task runs again and sends its links again;
  none is lost.
* What is wrong with a link is the link's author's to mend: it is logged with the task's id, and neither the outcome nor
  the ack, nor the other links, are harmed.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from greenworker.app import links
from greenworker.app.app import App
from greenworker.app.options import SendOptions
from greenworker.app.signature import Signature
from greenworker.broker.publisher import Outgoing, Replacement
from greenworker.broker.replacer import Companion, Fate, Replacer
from greenworker.clock import Clock
from greenworker.errors import EncodeError, Reject, TaskLostError
from greenworker.execution.bounded import Bounded
from greenworker.execution.outcome import Failed, Outcome, Rejected, Succeeded, TimedOut
from greenworker.execution.request import Request
from greenworker.protocol.results import FAILURE, ResultMeta
from greenworker.results.base import ResultStore
from greenworker.results.record import unstorable

logger = logging.getLogger(__name__)

ERRBACK_TIMEOUT = 30.0  # seconds for an errback that is called, where the pool can interrupt it


@dataclass(frozen=True, slots=True)
class Link:
    """A message that follows a task: the id and name of its own task."""

    task_id: str
    task: str
    outgoing: Outgoing


class Links:
    """Makes and sends the links of requests. ``of`` is called in slots, the rest from anywhere."""

    def __init__(self, app: App, replacer: Replacer, results: ResultStore, clock: Clock, errbacks: Bounded) -> None:
        """``errbacks`` bounds those that are called: a task's own limits are over when it has failed."""
        self._app = app
        self._replacer = replacer
        self._results = results
        self._clock = clock
        self._errbacks = errbacks

    # --- in the slot --------------------------------------------------------------------------------------------

    def of(self, request: Request, outcome: Outcome) -> list[Link]:
        """The messages that follow ``outcome``.

        Errbacks that are called, and not sent, are called now, before the result is stored: what follows it comes from
        the store's writer, which must not wait for anybody's code.
        """
        match outcome:
            case Succeeded(value):
                following = links.after_success(self._app, request.message, value)
            case Failed() | TimedOut():
                following = self._after_failure(request, outcome)
            case Rejected(reason, requeue) if not requeue:
                following = self._after_failure(request, Failed(Reject(reason, requeue), ""))
            case _:
                return []
        return [link for each in following if (link := self._link(request, each)) is not None]

    def _after_failure(self, request: Request, outcome: Failed | TimedOut) -> list[links.Next]:
        exc, trace = outcome.error(), outcome.traceback or None
        to_send, to_call = links.after_failure(self._app, request.message)
        for errback in to_call:
            self._call(request, errback, exc, trace)
        self._fail_chain(request, exc, trace)
        return to_send

    def _call(self, request: Request, errback: Signature, exc: BaseException, trace: str | None) -> None:
        run = request.run
        if run is None or isinstance(exc, TaskLostError):  # the worker stops, and this may not be the slot
            logger.error("Task %s: its link_error %s is not called: %s", request, errback.task, exc)
            return
        try:
            self._errbacks.call(lambda: links.call(self._app, errback, request.task_context(), exc, trace), run)
        except BaseException as ended:  # its time is up, or it raised SystemExit: the task has its outcome
            logger.error("Task %s: its link_error %s was ended: %r", request, errback.task, ended)

    def _fail_chain(self, request: Request, exc: BaseException, trace: str | None) -> None:
        """The tasks that the chain does not come to have failed, too: who waits for the last one must not for ever."""
        message = request.message
        if request.ignore_result or not message.chain:
            return
        now = self._clock.utcnow()
        for step in links.signatures(self._app, message, message.chain, "chain"):
            task_id, reply_to = step.options.get("task_id"), step.options.get("reply_to") or message.reply_to
            if isinstance(task_id, str) and task_id:
                meta = ResultMeta(task_id, FAILURE, exc, traceback=trace, date_done=now)
                meta.reply_to, meta.correlation_id = reply_to, task_id
                self._store(request, meta)

    def _store(self, request: Request, meta: ResultMeta) -> None:
        try:
            self._results.store(meta, _go_on)
        except EncodeError as exc:
            logger.error(
                "Task %s: the result of %s, next in its chain, cannot be stored: %s", request, meta.task_id, exc
            )
            self._results.store(unstorable(meta, exc), _go_on)

    def _link(self, request: Request, following: links.Next) -> Link | None:
        signature = following.signature
        try:
            args, kwargs, options = signature.merged(following.args, None, following.options)
            known = {name: value for name, value in options.items() if name in SendOptions.__annotations__}
            if len(known) < len(options):
                logger.debug(
                    "Task %s: options of its link %s are not here: %s", request, signature.task, {*options} - {*known}
                )
            message, outgoing = self._app.prepare(signature.task, args, kwargs, known)
        except Exception as exc:  # whatever another program wrote into it, or a router makes of it
            logger.error("Task %s: its link %s is not sent: %s: %s", request, signature.task, type(exc).__name__, exc)
            return None
        return Link(message.id, message.task, outgoing)

    # --- from anywhere ------------------------------------------------------------------------------------------

    def send(self, request: Request, following: Sequence[Link], finish: Callable[[], None]) -> None:
        """Send ``following`` (one at least), one after another, then ack the delivery and call ``finish``."""
        make: Any = Companion if len(following) > 1 else Replacement
        entry = make(request.delivery, following[0].outgoing)
        self._replacer.put(entry, functools.partial(self._sent, request, entry, following, finish))

    def _sent(
        self,
        request: Request,
        entry: Companion | Replacement,
        following: Sequence[Link],
        finish: Callable[[], None],
        fate: Fate,
    ) -> None:
        came_again = request.delivery is not entry.delivery  # and was adopted while the replacer was at work
        if fate is Fate.DROPPED:
            if came_again:
                self.send(request, following, finish)
            else:
                finish()  # without an ack: the task comes again
            return
        if fate is Fate.UNSENDABLE:
            logger.error("Task %s: its link %s cannot be put into a message", request, following[0].task)
        if len(following) > 1:
            self.send(request, following[1:], finish)
            return
        if came_again or fate is Fate.UNSENDABLE:
            request.delivery.ack()
        finish()


def children(following: Sequence[Link]) -> list[Any]:
    """``following`` as Celery stores the children of a task: ``((id, parent), children)`` each."""
    return [[[link.task_id, None], None] for link in following]


def _go_on() -> None:
    """No delivery waits for these records; the task's own is written after them."""
