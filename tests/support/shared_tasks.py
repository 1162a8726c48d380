"""The same tasks for a greenworker and for a Celery worker that share a queue: each notes who ran what."""

from __future__ import annotations

import time
from typing import Any

from tests.support.journal import note

# Seconds after which Celery's worker here takes over what another one has had; else an hour. Whole ones, and held
# against times in whole seconds: a process that stands still for what a busy machine costs must not use it up.
VISIBILITY_TIMEOUT = 4


def define(app: Any, who: str) -> None:
    """Give ``app``, of either kind, the tasks; ``who`` stands in what they note."""

    @app.task(name="shared.note", ignore_result=True)  # type: ignore[untyped-decorator]
    def noted(number: int) -> None:
        note(event="end", number=number, who=who)

    @app.task(name="shared.hold", ignore_result=True, acks_late=True)  # type: ignore[untyped-decorator]
    def hold(number: int, seconds: float) -> None:
        note(event="begin", number=number, who=who)
        time.sleep(seconds)
        note(event="end", number=number, who=who)
