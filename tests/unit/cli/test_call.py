"""``greenworker call``: what it sends, what it prints, and how it exits when it cannot."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from greenworker.cli.call import QUIET_TIME
from greenworker.cli.main import run
from tests.support.worker import wait_until

APP = """
from greenworker import App

app = App("shop")

@app.task(name="shop.add", queue="sums")
def add(x, y, z=0):
    return x + y + z

@app.task(name="shop.forget", ignore_result=True)
def forget():
    pass
"""

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs ``greenworker call ...``; returns the exit code, standard output and standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = run(["call", *arguments])
        except SystemExit as exc:  # argparse
            code = int(exc.code or 0)
        captured = capsys.readouterr()
        return code, captured.out.strip(), captured.err.strip()

    return call


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An app in the current folder; its module's name."""
    name = f"called_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(APP)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_sends_by_name_and_prints_the_id(embedded: Any, call: Call) -> None:
    code, out, err = call("shop.add", "2", "-1.5", '{"a": [null]}', "text", '"7"', "NaN", "--kwargs", '{"z": 1}')
    [message] = embedded.messages()
    assert (code, out, err) == (0, message.id, "")
    assert message.task == "shop.add"
    assert list(message.args) == [2, -1.5, {"a": [None]}, "text", "7", "NaN"]
    assert message.kwargs == {"z": 1}


@pytest.mark.parametrize(
    ("line", "args"),
    [
        ("shop.add --queue sums 2 -3", [2, -3]),
        ("--queue sums shop.add 2 -3", [2, -3]),
        ("shop.add 2 --queue sums -3", [2, -3]),
        ("shop.add 2 -3 --queue sums", [2, -3]),
        ("shop.add -1 2 --queue sums", [-1, 2]),
        ("shop.add --queue sums -- -x --wait", ["-x", "--wait"]),
        ("--queue sums -- shop.add -1e3 --", [-1000.0, "--"]),
    ],
)
def test_options_stand_anywhere(embedded: Any, call: Call, line: str, args: list[Any]) -> None:
    embedded.declare("sums")
    code, _, err = call(*line.split())
    assert (code, err) == (0, "")
    [message] = embedded.messages("sums")
    assert (message.task, list(message.args)) == ("shop.add", args)


def test_options_of_the_call(embedded: Any, call: Call) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    eta = before + timedelta(seconds=40)  # near: the broker may keep a far one until it is due
    options = f"--queue sums --eta {eta.replace(tzinfo=None).isoformat()} --expires 1h30m --priority 3 --task-id abc"
    assert call("shop.add", *options.split())[:2] == (0, "abc")
    [message] = embedded.messages("sums")
    assert (message.eta, message.priority, message.id) == (eta, 3, "abc")
    assert 5400 <= (message.expires - before).total_seconds() <= 5430
    call("shop.add", "--countdown", "0.5m")
    [message] = embedded.messages()
    assert 30 <= (message.eta - before).total_seconds() <= 60


def test_app_gives_the_task_its_queue(embedded: Any, call: Call, project: str) -> None:
    code, _, err = call("-A", f"{project}:app", "shop.add", "2", "2")
    assert (code, err, len(embedded.messages("sums"))) == (0, "", 1)


def test_name_that_the_app_does_not_have(embedded: Any, call: Call, project: str) -> None:
    code, out, err = call("-A", project, "shop.ad", "2", "2")
    assert (code, out) == (64, "")
    assert "no task is named 'shop.ad' (2 registered); did you mean 'shop.add'?\nLeave out -A" in err


def test_arguments_that_the_task_does_not_take(embedded: Any, call: Call, project: str) -> None:
    code, _, err = call("-A", project, "shop.add", "2")
    assert (code, err) == (64, "greenworker call: task shop.add: missing a required argument: 'y'")


def test_app_of_the_environment_that_is_not_there_is_a_warning(
    embedded: Any, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENWORKER_WORKER_APP", "called_nowhere:app")
    code, _, err = call("shop.add", "2")
    assert code == 0 and "no module 'called_nowhere'" in err and "sent by its name alone" in err
    assert len(embedded.messages()) == 1
    assert call("-A", "called_nowhere:app", "shop.add", "2")[0] == 78
    assert embedded.messages() == []


def test_embedded_broker_that_no_worker_has_made_is_not_made(state: Path, call: Call) -> None:
    code, out, err = call("shop.add", "2", "2")
    assert (code, out) == (69, "")
    assert err.startswith("greenworker call: embedded broker: ") and str(state / "broker.db") in err
    assert list(state.iterdir()) == []


def test_broker_that_does_not_answer(state: Path, call: Call) -> None:
    code, _, err = call("shop.add", "-b", "amqp://me:secret@127.0.0.1:1//", "--broker-publish-timeout", "100ms")
    assert code == 69 and "connection refused: is the broker running, and is the port right?" in err
    assert "every user sees it" in err and "secret" not in err


class Terminal(io.StringIO):
    """Standard error at which somebody sits."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "told"), [(Terminal, 1), (io.StringIO, 0)])
def test_a_wait_for_the_broker_is_told_on_a_terminal(
    state: Path, monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], told: int
) -> None:
    assert QUIET_TIME <= 2
    monkeypatch.setattr("greenworker.cli.call.QUIET_TIME", 0.05)
    monkeypatch.setattr("sys.stderr", stream())
    began = time.monotonic()
    assert run(["call", "shop.add", "-b", "amqp://me:secret@127.0.0.1:1//", "--broker-publish-timeout", "400ms"]) == 69
    assert time.monotonic() - began < 1.5
    err = sys.stderr.getvalue()  # type: ignore[attr-defined]
    notice = "greenworker call: waiting for the broker amqp://me:***@127.0.0.1:1//, for 400ms at most\n"
    assert err.count(notice) == told
    assert "secret" not in err
    assert err.splitlines()[-1].startswith("greenworker call: not published: ")


def test_a_broker_that_answers_at_once_is_no_wait(embedded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    assert run(["call", "shop.add"]) == 0
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    wait_until(lambda: not any(timer.is_alive() for timer in timers), timeout=QUIET_TIME / 2, what="the notice is off")
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_wait_without_a_results_store_is_told_before_anything_is_sent(state: Path, call: Call) -> None:
    began = time.monotonic()
    code, _, err = call("shop.add", "--wait", "-b", "amqp://127.0.0.1:1//", "--broker-publish-timeout", "20s")
    assert code == 64 and "--wait: there is no results store to read from; set [results] url" in err
    assert time.monotonic() - began < 5


def test_wait_for_a_task_that_leaves_no_result(embedded: Any, call: Call, project: str) -> None:
    embedded.declare("celery")
    code, out, err = call("-A", project, "shop.forget", "--wait")
    assert (code, out) == (64, "") and "--wait: task shop.forget leaves no result, for ignore_result is on" in err
    assert embedded.messages() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shop.add", "--kwargs", "{'z': 1}"], "expected a JSON object such as"),
        (["shop.add", "--kwargs", "[1]"], "expected a JSON object such as"),
        (["shop.add", "--countdown", "soon"], "expected a duration such as 30s"),
        (["shop.add", "--eta", "tomorrow"], "expected an ISO 8601 date and time, got 'tomorrow'"),
        (["shop.add", "--priority", "-1"], "priority: expected a whole number from 0 to 255, got -1"),
        (["shop.add", "--priority", "256"], "priority: expected a whole number from 0 to 255, got 256"),
        (["shop.add", "--wait", "--results-url", "none"], "--wait: there is no results store"),
        ([], "expected TASK, the name of a task, such as shop.tasks.add"),
    ],
)
def test_wrong_command_lines(embedded: Any, call: Call, arguments: list[str], words: str) -> None:
    embedded.declare("celery")
    code, out, err = call(*arguments)
    assert (code, out) == (64, "") and words in err
    assert embedded.messages() == []
