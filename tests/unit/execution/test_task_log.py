"""The two lines of a task: each carries the task's id and name as fields, though it is written outside of the task."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from greenworker.app.context import worker_context
from greenworker.execution.outcome import Failed, Outcome, PutBack, Succeeded
from greenworker.execution.task_log import TaskLog
from greenworker.green.greens import library
from greenworker.settings.model import LogSettings
from greenworker.worker.logs import set_up
from tests.support.execution import make_request


@pytest.fixture(autouse=True)
def root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


def logged(log_format: str, outcome: Outcome) -> list[str]:
    """The lines of one task, as a worker writes them."""
    assert worker_context() is None
    stream = io.StringIO()
    set_up(LogSettings(format=log_format), library("threads"), stream)
    log, request = TaskLog(logging.INFO), make_request()
    log.received(request)
    log.done(request, outcome, 0.5)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("outcome", [Succeeded(4), Failed(ValueError("wrong"), "Traceback ..."), PutBack()])
def test_json_lines_carry_the_task(outcome: Outcome) -> None:
    lines = [json.loads(line) for line in logged("json", outcome)]
    assert [(line["task_id"], line["task_name"]) for line in lines] == [("id-1", "tests.add")] * 2
    assert lines[0]["message"] == "Task tests.add[id-1] received"


def test_text_lines_name_the_task_once() -> None:
    received, done = logged("text", Succeeded(4))
    assert received.endswith(" greenworker.task: Task tests.add[id-1] received")
    assert done.endswith(" greenworker.task: Task tests.add[id-1] succeeded in 0.500s: 4")
