"""What holds for every command: its help, unknown flags and commands, exit codes of a wrong command line."""

from __future__ import annotations

import importlib
import re

import pytest

from greenworker.cli.main import COMMANDS, run
from greenworker.settings import table

FLAGS = {row.flag for row in table.ROWS}
BROKER = {f"--broker-{key}" for key in ("url", "connect-timeout", "tls-ca", "tls-cert", "tls-key", "tls-verify")}
STATE = "--worker-state-directory"
SHOWN = {
    "worker": FLAGS,
    "call": BROKER
    | {STATE, "--worker-app", "--broker-publish-timeout", "--results-url"}
    | {"--task-default-queue", "--task-serializer", "--task-compression"},
    "purge": BROKER | {STATE, "--worker-queues", "--worker-exclude-queues"},
    "check-config": set(),
    "print-config": set(),
}


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``greenworker ARGUMENTS``."""
    try:
        code = run(arguments)
    except SystemExit as exc:  # argparse
        code = int(exc.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_the_settings_that_matter(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = ran(capsys, command, "--help")
    assert (code, err) == (0, "")
    listed = {word for line in out.splitlines() if re.match(r" +-", line) for word in re.findall(r"--[a-z-]+", line)}
    assert listed & FLAGS == SHOWN[command]
    assert "examples:" in out and "exit codes:" in out and "-C, --config FILE" in out
    assert ('"greenworker worker --help" lists' in " ".join(out.split())) == (command != "worker")
    assert [line for line in out.splitlines() if len(line) > 100] == []


def test_help_is_short_where_it_can_be(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The value's name stands once behind all spellings; the usage has what people type."""
    monkeypatch.setenv("COLUMNS", "100")
    _, out, _ = ran(capsys, "worker", "--help")
    assert "  -P, --pool, --worker-pool gevent|eventlet|threads|solo\n" in out
    assert "\n[worker]:\n  The worker process:" in out and "\n[broker]:\n" in out
    assert "\n  TERM  warm shutdown" in out, "indented lines stay as they are"
    assert "--broker-tls-ca" not in out.split("\n\n")[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_flag_is_compared_with_all_flags_of_the_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With hidden ones too: they are accepted."""
    names = {"--concurency=5": "--concurrency", "--confg": "--config", "--task-serialiser": "--task-serializer"}
    names |= {"--kwarg": "--kwargs", "--countdwn": "--countdown"} if command == "call" else {}
    names |= {"--forse": "--force"} if command == "purge" else {}
    for wrong, right in names.items():
        code, out, err = ran(capsys, command, *(["shop.add"] if command == "call" else []), wrong)
        assert (code, out) == (64, "")
        flag = wrong.partition("=")[0]
        assert err.endswith(f"greenworker {command}: unknown option {flag}, did you mean {right}?\n")
    assert ran(capsys, command, "--qqqqq")[2].endswith("unknown option --qqqqq, see --help\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_settings_that_help_leaves_out_are_accepted(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake in one of them is told as a mistake in a setting, not as an unknown flag."""
    task = ["shop.add"] if command == "call" else []
    code, _, err = ran(capsys, command, *task, "--worker-strict", "maybe", "--log-color=pink")
    assert code == 78
    assert "bad value 'maybe' for [worker] strict" in err and "bad value 'pink' for [log] color" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "usage: greenworker COMMAND"),
        (["wroker"], "there is no command 'wroker'; did you mean 'worker'?"),
        (["qqqq"], "there is no command 'qqqq'; the commands are: worker, call, purge"),
        (["-A", "shop.tasks:app", "worker"], "the command comes first: greenworker COMMAND"),
        (["check-config", "-c"], "expected one argument"),
        (["check-config", "--", "secret"], "unexpected argument (not shown"),
    ],
)
def test_wrong_command_lines(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(capsys, *arguments)
    assert code == 64 and words in out + err


@pytest.mark.parametrize("command", COMMANDS)
def test_shown_settings_exist(command: str) -> None:
    shown = getattr(importlib.import_module(COMMANDS[command]), "SHOWN", ())
    assert set(shown) <= {f"{row.section}.{row.key}" for row in table.ROWS}
