"""Logging of a worker process: text or JSON, with the task's id and name on every line from inside one."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from greenworker.app.context import worker_context
from greenworker.green.base import Library
from greenworker.settings.model import LogSettings

COLORS = {logging.WARNING: "\033[33m", logging.ERROR: "\033[31m", logging.CRITICAL: "\033[1;31m"}
RESET = "\033[0m"


class Handler(logging.StreamHandler[TextIO]):
    """Writes lines under a lock of ``make_lock``'s."""

    def __init__(self, stream: TextIO, make_lock: Callable[[], Any]) -> None:
        self._make_lock = make_lock
        super().__init__(stream)

    def createLock(self) -> None:  # noqa: N802 - logging's name
        self.lock = self._make_lock()


class TaskFilter(logging.Filter):
    """Puts ``task_id`` and ``task_name`` on each record: of the task that logs, or that spawned the greenlet.

    A record that names a task already (``extra``) is left as it is.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "task_id", None) is None:
            context = worker_context()
            record.task_id = context.id if context is not None else None
            record.task_name = context.task if context is not None else None
        return True


class TextFormatter(logging.Formatter):
    """``2026-01-31 12:00:00.123 INFO    greenworker.worker: message``, with ``[name[id]]`` inside a task.

    A message that names its task itself gets no label. Each line has its own colour and reset, so that one line that
    is cut out of a traceback, by ``grep`` or a pager, does not colour what follows it.
    """

    def __init__(self, *, color: bool) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        message = _message(self, record)
        task = task_of(record)
        named = f"{task[0]}[{task[1]}]" if task is not None else ""
        label = "" if named in message else f" [{named}]"
        text = f"{at} {record.levelname:<7} {record.name}{label}: {message}"
        color = COLORS.get(record.levelno) if self._color else None
        return "\n".join(f"{color}{line}{RESET}" for line in text.split("\n")) if color else text


class JsonFormatter(logging.Formatter):
    """One JSON object a line: at (ISO 8601 UTC), level, logger, message, task_id, task_name, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        task = task_of(record)
        if task is not None:
            line["task_name"], line["task_id"] = task
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def task_of(record: logging.LogRecord) -> tuple[str, str] | None:
    """Name and id of the task that logged ``record``, as TaskFilter put them there; None outside a task."""
    task_id = getattr(record, "task_id", None)
    return (getattr(record, "task_name", None) or "?", task_id) if task_id else None


def _message(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info:
        text = f"{text}\n{formatter.formatException(record.exc_info)}"
    return text


def lock_handlers_of_the_app(library: Library) -> None:
    """Give handlers that the app's modules made native locks too, for the reason told in ``set_up``.

    Only those that write to streams and files. What sends over the network switches to other green threads while it
    holds its lock, and a native one would let them in: such handlers have no place in async tasks.
    """
    make_lock = library.original("_thread", "RLock")
    for reference in tuple(logging._handlerList):  # type: ignore[attr-defined]
        handler = reference()
        if isinstance(handler, logging.StreamHandler):
            handler.lock = make_lock()


def set_up(settings: LogSettings, library: Library, stream: TextIO | None = None) -> None:
    """Log to ``stream`` (standard error) as ``[log]`` says. Replaces the root logger's handlers.

    Locks are native ones: async tasks log from a native thread, and a green lock that is let go there wakes nobody in
    the hub (eventlet), so the first line that had to wait would be the worker's last.
    """
    stream = stream or sys.stderr
    make_lock = library.original("_thread", "RLock")
    logging._lock = make_lock()  # type: ignore[attr-defined]  # what all loggers share
    terminal = stream.isatty()
    as_text = settings.format == "text" or (settings.format == "auto" and terminal)
    handler = Handler(stream, make_lock)
    color = settings.color == "yes" or (settings.color == "auto" and terminal)
    handler.setFormatter(TextFormatter(color=color) if as_text else JsonFormatter())
    handler.addFilter(TaskFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level)
    for chatty in ("amqp", "kombu", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
