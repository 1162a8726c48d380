"""greenworker: a task-queue worker that runs tasks in green threads.

Names are handed out lazily: importing this package imports nothing that touches sockets or threads, so that
``python -m greenworker`` can patch first.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from greenworker.app import App, AsyncResult, Signature, Task, shared_task
    from greenworker.app import Signature as signature  # noqa: N813 - Celery's name
    from greenworker.errors import BulkError, Ignore, MaxRetriesExceededError, Reject, Retry, SoftTimeLimitExceeded

__version__ = "0.1.0"

__all__ = [
    "App",
    "AsyncResult",
    "BulkError",
    "Ignore",
    "MaxRetriesExceededError",
    "Reject",
    "Retry",
    "Signature",
    "SoftTimeLimitExceeded",
    "Task",
    "__version__",
    "shared_task",
    "signature",
]

_HOMES = {
    "App": "greenworker.app",
    "Signature": "greenworker.app",
    "signature": "greenworker.app.signature",
    "BulkError": "greenworker.errors",
    "AsyncResult": "greenworker.app",
    "Task": "greenworker.app",
    "shared_task": "greenworker.app",
    "Ignore": "greenworker.errors",
    "MaxRetriesExceededError": "greenworker.errors",
    "Reject": "greenworker.errors",
    "Retry": "greenworker.errors",
    "SoftTimeLimitExceeded": "greenworker.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
