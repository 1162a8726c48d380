"""Logs of a worker: text and JSON, with the task on every line from inside one."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from greenworker.app.context import CURRENT, TaskContext
from greenworker.green.greens import library
from greenworker.settings.model import LogSettings
from greenworker.worker.logs import set_up


@pytest.fixture(autouse=True)
def root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


def logged(settings: LogSettings, *, in_task: bool = False, fail: bool = False) -> str:
    stream = io.StringIO()
    set_up(settings, library("threads"), stream)
    token = CURRENT.set(TaskContext(id="id-1", task="shop.add")) if in_task else None
    try:
        if fail:
            try:
                raise ValueError("wrong")
            except ValueError:
                logging.getLogger("shop").exception("it %s", "broke")
        else:
            logging.getLogger("shop").info("hello %s", "there")
    finally:
        if token is not None:
            CURRENT.reset(token)
    return stream.getvalue()


def test_text_outside_a_task() -> None:
    line = logged(LogSettings(format="text"))
    assert line.endswith("INFO    shop: hello there\n")
    assert "\033" not in line


def test_text_inside_a_task() -> None:
    assert "shop [shop.add[id-1]]: hello there" in logged(LogSettings(format="text"), in_task=True)


def test_text_shows_the_traceback() -> None:
    assert "it broke\nTraceback" in logged(LogSettings(format="text"), fail=True)


def test_text_names_a_task_once() -> None:
    """A message that names its task, as the worker's own lines do, gets no label."""
    stream = io.StringIO()
    set_up(LogSettings(format="text"), library("threads"), stream)
    extra = {"task_id": "id-1", "task_name": "shop.add"}
    logging.getLogger("greenworker.task").info("Task shop.add[id-1] received", extra=extra)
    logging.getLogger("greenworker.task").info("about it", extra=extra)
    first, second = stream.getvalue().splitlines()
    assert first.endswith("greenworker.task: Task shop.add[id-1] received")
    assert second.endswith("greenworker.task [shop.add[id-1]]: about it")


@pytest.mark.parametrize("in_task", [False, True])
def test_a_record_that_names_a_task_keeps_it(in_task: bool) -> None:
    stream = io.StringIO()
    set_up(LogSettings(format="json"), library("threads"), stream)
    token = CURRENT.set(TaskContext(id="id-2", task="shop.other") if in_task else None)
    try:
        logging.getLogger("shop").info("hello", extra={"task_id": "id-1", "task_name": "shop.add"})
    finally:
        CURRENT.reset(token)
    line = json.loads(stream.getvalue())
    assert (line["task_id"], line["task_name"]) == ("id-1", "shop.add")


def test_every_coloured_line_is_reset_at_its_end() -> None:
    lines = logged(LogSettings(format="text", color="yes"), fail=True).splitlines()
    assert len(lines) > 3
    assert all(line.startswith("\033[31m") and line.endswith("\033[0m") and line.count("\033") == 2 for line in lines)


def test_json_is_what_machines_get_by_default() -> None:
    line = json.loads(logged(LogSettings(format="auto"), in_task=True))
    assert (line["message"], line["level"], line["logger"]) == ("hello there", "INFO", "shop")
    assert (line["task_id"], line["task_name"]) == ("id-1", "shop.add")


def test_json_has_the_exception_in_one_line() -> None:
    text = logged(LogSettings(format="json"), fail=True)
    assert text.count("\n") == 1
    assert "ValueError: wrong" in json.loads(text)["exception"]
    assert "task_id" not in json.loads(text)


def test_level_is_that_of_the_settings() -> None:
    assert logged(LogSettings(format="text", level="WARNING")) == ""


@pytest.mark.parametrize("name", ["amqp", "kombu"])
def test_chatty_libraries_are_kept_quiet_even_at_debug(name: str) -> None:
    set_up(LogSettings(format="text", level="DEBUG"), library("threads"), io.StringIO())
    assert not logging.getLogger(name).isEnabledFor(logging.DEBUG)
