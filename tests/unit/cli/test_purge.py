"""``greenworker purge`` on the embedded broker: what it deletes, and what it asks before."""

from __future__ import annotations

import io
from typing import Any

import pytest

from greenworker.cli.main import run


class Terminal(io.StringIO):
    """Standard input at which somebody sits."""

    def isatty(self) -> bool:
        return True


def test_force_deletes_and_counts(embedded: Any, capsys: pytest.CaptureFixture[str]) -> None:
    embedded.put("celery", 3)
    embedded.put("mail", 2)
    embedded.put("kept", 1)
    assert run(["purge", "-Q", "celery,mail,kept,missing", "-X", "kept", "--force"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "missing: no such queue",
        "celery: 3 messages deleted",
        "mail: 2 messages deleted",
    ]
    assert (embedded.count("celery"), embedded.count("mail"), embedded.count("kept")) == (0, 0, 1)


@pytest.mark.parametrize(("answer", "left"), [("yes\n", 0), ("y\n", 3), ("\n", 3), ("", 3)])
def test_asks_before(
    embedded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, left: int
) -> None:
    embedded.put("celery", 3)
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert run(["purge"]) == 0
    out = capsys.readouterr().out
    assert "3 in celery" in out and str(embedded.path) in out
    assert embedded.count("celery") == left
    assert ("Nothing was deleted." in out) == bool(left)


def test_without_a_terminal_it_deletes_nothing(
    embedded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embedded.put("celery", 3)
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    assert run(["purge"]) == 64
    assert "add --force" in capsys.readouterr().err and embedded.count("celery") == 3


def test_no_queue_left(embedded: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["purge", "-Q", "mail", "-X", "mail", "--force"]) == 78
    assert "exclude_queues leaves none" in capsys.readouterr().err


def test_a_password_on_the_command_line_is_warned_of(state: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["purge", "--force", "-b", "amqp://me:secret@127.0.0.1:1//"]) == 69
    err = capsys.readouterr().err
    assert err.startswith(
        "greenworker purge: warning: [broker] url was given on the command line, where every user sees"
    )
    assert "secret" not in err


def test_broker_that_is_not_there(state: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["purge", "--force"]) == 69
    assert str(state / "broker.db") in capsys.readouterr().err and list(state.iterdir()) == []
