"""What user code imports: App, Task, the context of a running task, results of sent tasks."""

from __future__ import annotations

from greenworker.app.app import App
from greenworker.app.context import TaskContext, current_context
from greenworker.app.eager import EagerResult
from greenworker.app.result import AsyncResult
from greenworker.app.shared_tasks import shared_task
from greenworker.app.signature import Signature
from greenworker.app.task import Task

__all__ = ["App", "AsyncResult", "EagerResult", "Signature", "Task", "TaskContext", "current_context", "shared_task"]
