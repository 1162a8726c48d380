"""The store behind ``[results] url = none``: nothing is kept, and asking for a result says why there is none."""

from __future__ import annotations

from collections.abc import Callable

from greenworker.errors import ResultsError
from greenworker.protocol.results import ResultMeta


class NullResults:
    """Keeps nothing. ``stored`` is called at once, so that acknowledgements never wait for it."""

    full = False

    def start(self) -> None:
        """Nothing to open."""

    def reply_to(self) -> str | None:
        return None

    def store(self, meta: ResultMeta, stored: Callable[[], None] | None = None) -> None:
        if stored is not None:
            stored()

    def get(self, task_id: str) -> ResultMeta | None:
        raise ResultsError(f"no result of task {task_id}: results are switched off ([results] url = none)")

    def wait(self, task_id: str, timeout: float) -> ResultMeta:
        raise ResultsError(f"no result of task {task_id}: results are switched off ([results] url = none)")

    def forget(self, task_id: str) -> None:
        """Nothing is kept, so nothing is left to forget."""

    def flush(self, timeout: float) -> bool:
        return True

    def stop(self) -> None:
        """Nothing to close."""
