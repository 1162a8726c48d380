"""AsyncResult: the result of a task that was sent, read from the results store."""

from __future__ import annotations

import math
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from greenworker.errors import ResultsAwayError, ResultTimeoutError
from greenworker.protocol.results import FAILURE, PENDING, READY_STATES, REVOKED, SUCCESS, ResultMeta

if TYPE_CHECKING:
    from greenworker.app.app import App

ONE_WAIT = 5.0  # seconds; a wait without end is made of such waits, so that an interrupt or a limit gets through
AWAY_LIMIT = 30.0  # seconds that a wait bears with a store that cannot be reached: it may only be restarted
AWAY_DELAY = 0.2
PROPAGATE_STATES = frozenset({FAILURE, REVOKED})


class AsyncResult:
    """What is known of one task. A task that no store has heard of is PENDING.

    Everything that reads the store raises ResultsError or StateFolderError when it cannot be read, and ResultsError
    when results are switched off.
    """

    def __init__(self, id: str, app: App) -> None:
        self.id = id
        self.app = app
        self._final: ResultMeta | None = None  # a final record does not change, so it is read once

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id}>"

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def task_id(self) -> str:
        """The task's id, under Celery's other name."""
        return self.id

    def get(self, timeout: float | None = None, propagate: bool = True, interval: float | None = None) -> Any:
        """Wait for the task to end; returns what it returned.

        ``timeout`` in seconds, None waits for as long as it takes. Raises ResultTimeoutError when it is over; what the
        task raised, or TaskRevokedError, unless ``propagate`` is False: then that exception is returned. ``interval``
        is Celery's, and ignored: a store that tells of results is not polled for them.
        """
        meta = self._final or self._wait(timeout)
        self._final = meta
        if meta.status == SUCCESS:
            return meta.result
        if propagate and isinstance(meta.result, BaseException):
            raise meta.result
        return meta.result

    wait = get

    def maybe_throw(self, propagate: bool = True) -> Any:
        """The result as it is, without waiting; raises what the task raised, unless ``propagate`` is False."""
        meta = self._read()
        if propagate and meta.status in PROPAGATE_STATES and isinstance(meta.result, BaseException):
            raise meta.result
        return meta.result

    def _wait(self, timeout: float | None) -> ResultMeta:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        away_since: float | None = None
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                return self.app.results.wait(self.id, min(left, ONE_WAIT))
            except ResultTimeoutError as exc:
                away_since = None
                if time.monotonic() >= deadline:
                    raise ResultTimeoutError(f"task {self.id}: no result after {timeout:g} s{exc.found}") from None
            except ResultsAwayError:
                now = time.monotonic()
                away_since = now if away_since is None else away_since
                if now >= min(deadline, away_since + AWAY_LIMIT):
                    raise
                time.sleep(AWAY_DELAY)

    def _read(self) -> ResultMeta:
        if self._final is not None:
            return self._final
        meta = self.app.results.get(self.id)
        if meta is None:
            return ResultMeta(task_id=self.id, status=PENDING)
        if meta.status in READY_STATES:
            self._final = meta
        return meta

    @property
    def state(self) -> str:
        """PENDING, STARTED, RETRY, SUCCESS, FAILURE, REVOKED, or a state of the user's own."""
        return self._read().status

    status = state

    @property
    def result(self) -> Any:
        """What the task returned, the exception it raised, or the ``meta`` of its latest state. Does not wait."""
        return self._read().result

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback of a task that failed or is tried again."""
        return self._read().traceback

    @property
    def children(self) -> list[AsyncResult]:
        """The tasks that the task sent, where its worker notes them, as Celery's do."""
        return [AsyncResult(task_id, self.app) for task_id in _child_ids(self._read().children)]

    @property
    def date_done(self) -> datetime | None:
        """When it ended, an aware datetime; None before."""
        return self._read().date_done

    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.state in READY_STATES

    def successful(self) -> bool:
        """Whether it ended and returned."""
        return self.state == SUCCESS

    def failed(self) -> bool:
        """Whether it ended by raising."""
        return self.state == FAILURE

    def forget(self) -> None:
        """Remove the result from the store."""
        self._final = None
        self.app.results.forget(self.id)


def _child_ids(children: list[Any]) -> list[str]:
    """The ids in what Celery stores of a task's children, a ``((id, parent), children)`` each."""
    ids: list[str] = []
    for child in children:
        head = child[0] if isinstance(child, (list, tuple)) and child else child
        task_id = head[0] if isinstance(head, (list, tuple)) and head else head
        if isinstance(task_id, str):
            ids.append(task_id)
    return ids
