"""Queues: which queues this worker consumes, and how each is declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from greenworker.bootsteps import Step
from greenworker.broker.delivery import QueueSpec
from greenworker.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greenworker.app.app import App
    from greenworker.settings import Settings
    from greenworker.worker.controller import WorkController


def consumed_queues(app: App, settings: Settings) -> dict[str, QueueSpec]:
    """The queues of ``[worker] queues`` without the excluded ones, in order. Raises SettingsError if none is left."""
    wanted = settings.worker.taken_queues
    if not wanted:
        raise SettingsError(
            [
                f"[worker] queues: expected at least one queue, got {', '.join(settings.worker.queues) or 'none'} "
                f"without {', '.join(settings.worker.exclude_queues) or 'nothing'}"
            ]
        )
    return {name: app.queue_spec(name) for name in wanted}


class Queues(Step["WorkController"]):
    """Owns ``worker.queues``."""

    name: ClassVar[str] = "queues"

    def create(self, parent: WorkController) -> None:
        parent.queues = consumed_queues(parent.app, parent.settings)

    def info(self, parent: WorkController) -> Mapping[str, Any]:
        return {name: queue.type for name, queue in parent.queues.items()}
