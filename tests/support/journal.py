"""What tasks under test did: each appends a line to the file that TASK_JOURNAL names, the test reads it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greenworker.app.context import worker_context

VARIABLE = "TASK_JOURNAL"


def note(**what: Any) -> None:
    """One line, appended in one write, so that many tasks and processes can share the file.

    The task's id, name and retries are in it, and ``at``, the wall clock.
    """
    context = worker_context()
    line = {"id": context.id, "task": context.task, "retries": context.retries} if context else {}
    journal = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(journal, (json.dumps({**line, "at": time.time(), **what}) + "\n").encode())
    os.close(journal)


class Journal:
    """The file, as the test reads it. ``environ`` is what the worker needs to write it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def environ(self) -> Mapping[str, str]:
        return {VARIABLE: str(self.path)}

    def lines(self) -> list[dict[str, Any]]:
        """Everything noted so far, in order. A line that is being written does not count yet."""
        if not self.path.exists():
            return []
        text = self.path.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def of(self, *ids: str) -> list[dict[str, Any]]:
        """The lines of the tasks with these ids."""
        wanted = set(ids)
        return [line for line in self.lines() if line.get("id") in wanted]
