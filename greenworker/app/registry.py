"""The tasks of an app, by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from greenworker.errors import AppError, NotRegistered

if TYPE_CHECKING:
    from greenworker.app.task import Task


class Registry:
    """Name -> Task, in the order of registration. ``registry[name]`` raises NotRegistered for an unknown name."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}

    def register(self, task: Task) -> Task:
        """Add a task; returns it.

        The same function again (its module was imported anew) takes the place of the old one. Raises AppError if
        another function has the name already.
        """
        other = self._tasks.get(task.name)
        if other is not None and other.place != task.place:
            raise AppError(
                f"two tasks are named {task.name!r}: one at {other.place}, one at {task.place}; "
                f"give one of them another name: @app.task(name=...)"
            )
        self._tasks[task.name] = task
        return task

    def find(self, name: str) -> Task | None:
        """The task of that name, or None."""
        return self._tasks.get(name)

    def __getitem__(self, name: str) -> Task:
        try:
            return self._tasks[name]
        except KeyError:
            raise NotRegistered(self.unknown(name)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._tasks))

    def values(self) -> tuple[Task, ...]:
        """The tasks."""
        return tuple(self._tasks.values())

    def __len__(self) -> int:
        return len(self._tasks)

    def unknown(self, name: str) -> str:
        """The sentence that says that no task has this name, with the nearest names there are."""
        near = difflib.get_close_matches(name, self._tasks, n=3)
        hint = f"; did you mean {' or '.join(repr(other) for other in near)}?" if near else ""
        return f"no task is named {name!r} ({len(self._tasks)} registered){hint}"
