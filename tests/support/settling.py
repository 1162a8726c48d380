"""A Settler with everything around it, for tests of what becomes of requests: real classes, recording ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from greenworker.broker.dead_letters import DeadLetters
from greenworker.broker.delivery import QueueSpec, Settlement
from greenworker.broker.publisher import Replacement
from greenworker.broker.replacer import Companion, Fate
from greenworker.execution.bounded import Bounded
from greenworker.execution.ledger import Ledger
from greenworker.execution.links import Links
from greenworker.execution.outcome import Outcome
from greenworker.execution.request import Request, Stage
from greenworker.execution.settlement import Settler
from greenworker.execution.task_log import TaskLog
from tests.support.clocks import FakeClock
from tests.support.execution import RecordingResults, RecordingSource, make_app, make_request


def _nothing(replacement: Replacement | Companion) -> None:
    """And it is published."""


class InstantReplacer:
    """Publishes and acks at once, on paper."""

    def __init__(self) -> None:
        self.replacements: list[Replacement | Companion] = []
        self.before: Callable[[Replacement | Companion], Fate | None] = _nothing  # what happens meanwhile

    def put(self, replacement: Replacement | Companion, done: Callable[[Fate], None]) -> None:
        self.replacements.append(replacement)
        fate = self.before(replacement) or Fate.PUBLISHED
        if fate is Fate.PUBLISHED and isinstance(replacement, Replacement):
            replacement.delivery.ack()
        done(fate)


class Bench:
    """A settler with everything around it."""

    def __init__(self) -> None:
        self.app = make_app()
        self.source = RecordingSource()
        self.results = RecordingResults()
        self.replacer = InstantReplacer()
        self.ledger = Ledger()
        clock = FakeClock()
        errbacks = Bounded(None, 0.0, limits=False)  # type: ignore[arg-type]
        self.settler = Settler(
            links=Links(self.app, self.replacer, self.results, clock, errbacks),  # type: ignore[arg-type]
            app=self.app,
            results=self.results,  # type: ignore[arg-type]
            replacer=self.replacer,  # type: ignore[arg-type]
            dead_letters=DeadLetters(self.replacer, {"celery": QueueSpec("celery")}, clock, "node"),  # type: ignore[arg-type]
            ledger=self.ledger,
            clock=clock,
            task_log=TaskLog(logging.INFO),
            hostname="node@host",
        )

    def settle(self, outcome: Outcome, *, acks_late: bool = True, **fields: Any) -> Request:
        request = make_request(app=self.app, source=self.source, acks_late=acks_late, **fields)
        self.ledger.add(request)
        request.stage = Stage.RUNNING
        request.run = object()  # type: ignore[assignment]  # it is in a slot
        self.settler.started(request)
        request.stage = Stage.FINISHED
        self.settler.settle(request, outcome)
        return request

    @property
    def settlements(self) -> list[Settlement]:
        return [settlement for _, settlement in self.source.settled]

    @property
    def states(self) -> list[str]:
        return [document["status"] for document in self.results.documents]
