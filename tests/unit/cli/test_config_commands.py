"""check-config and print-config as commands: their output, exit codes and help."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.worker import run

INI = """\
[worker]
app = shop.tasks:app
concurrency = 7

[broker]
url = amqp://user:hunter2@host//
    amqp://spare/

[queue mail]
weight = 3
"""


def shop_ini(folder: Path, text: str = INI) -> str:
    (folder / "shop.ini").write_text(text)
    return str(folder / "shop.ini")


def test_check_config_says_what_counts(tmp_path: Path) -> None:
    done = run(tmp_path, "check-config", "-C", shop_ini(tmp_path), "-P", "solo")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "OK: 5 settings given, the others are defaults",
        "  app      shop.tasks:app",
        "  pool     solo, 7 slots",
        "  broker   amqp://user:***@host// amqp://spare/",
        "  results  none",
        "  queues   celery",
    ]


def test_check_config_names_every_mistake(tmp_path: Path) -> None:
    file = shop_ini(tmp_path, "[worker]\nconcurency = 5\n[broker]\nurl = hunter2\n")
    done = run(tmp_path, "check-config", "-C", file, "-l", "loud")
    assert (done.returncode, done.stdout) == (78, "")
    lines = done.stderr.splitlines()
    assert lines[0] == f"{file}:2: unknown key 'concurency' in section [worker]; did you mean 'concurrency'?"
    assert lines[1].startswith(f"{file}:4: bad value <hidden> for [broker] url: expected a URL such as")
    assert lines[2].startswith("command line: bad value 'loud' for [log] level: expected one of DEBUG,")
    assert lines[3:] == ["3 mistakes"]
    assert "hunter2" not in done.stderr


def test_check_config_warns_of_a_password_in_the_process_list(tmp_path: Path) -> None:
    done = run(tmp_path, "check-config", "-b", "amqp://user:hunter2@host//")
    assert done.returncode == 0
    assert done.stderr == (
        "greenworker check-config: warning: [broker] url was given on the command line, where every user sees it; "
        "put it in an INI file: the process list shows its password\n"
    )
    assert run(tmp_path, "check-config", "-b", "amqp://host//").stderr == ""


def test_print_config_reads_back(tmp_path: Path) -> None:
    text = INI.replace("user:hunter2@", "")
    first = run(tmp_path, "print-config", "-C", shop_ini(tmp_path, text), "-P", "solo")
    assert first.returncode == 0
    assert f"# {tmp_path}/shop.ini:3\nconcurrency = 7\n" in first.stdout
    assert "# command line\npool = solo\n" in first.stdout
    assert "# default\nshutdown_timeout = 1m\n" in first.stdout
    (tmp_path / "again.ini").write_text(first.stdout)
    second = run(tmp_path, "print-config", "-C", "again.ini")
    assert first.stderr == "" and "***" not in first.stdout
    values = [line for line in first.stdout.splitlines() if not line.startswith("#")]
    assert [line for line in second.stdout.splitlines() if not line.startswith("#")] == values


def test_print_config_masks_secrets_in_comments(tmp_path: Path) -> None:
    done = run(tmp_path, "print-config", "-C", shop_ini(tmp_path))
    assert f"# {tmp_path}/shop.ini:6, masked\n#url = amqp://user:***@host//\n#    amqp://spare/\n" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
    assert done.stderr == (
        "greenworker print-config: warning: the output reads back as an INI file, "
        "but masked values are to be filled in: [broker] url\n"
    )


def test_a_masked_value_that_is_read_back_is_a_mistake(tmp_path: Path) -> None:
    printed = run(tmp_path, "print-config", "-C", shop_ini(tmp_path)).stdout
    (tmp_path / "again.ini").write_text(printed.replace("#url", "url").replace("#    ", "    "))
    line = printed.splitlines().index("#url = amqp://user:***@host//") + 1
    done = run(tmp_path, "check-config", "-C", "again.ini")
    assert done.returncode == 78
    assert done.stderr.startswith(
        f"again.ini:{line}: bad value <hidden> for [broker] url: expected a URL with its secret"
    )
    assert done.stderr.endswith("\n1 mistake\n")


def test_print_config_fails_with_every_mistake(tmp_path: Path) -> None:
    done = run(tmp_path, "print-config", "-C", shop_ini(tmp_path, "[worker]\npool = x\n[log]\nlevel = x\n"))
    assert (done.returncode, done.stdout) == (78, "")
    assert "shop.ini:2: bad value 'x'" in done.stderr
    assert "shop.ini:4: bad value 'x'" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--broker-ulr", "amqp://user:hunter2@host"],
        ["--broker-ulr=amqp://user:hunter2@host"],
        ["-Bamqp://user:hunter2@host"],
        ["amqp://user:hunter2@host"],
        ["--broker-ur", "amqp://user:hunter2@host"],
    ],
)
def test_a_misspelt_flag_never_shows_its_value(tmp_path: Path, arguments: list[str]) -> None:
    done: subprocess.CompletedProcess[str] = run(tmp_path, "check-config", *arguments)
    assert done.returncode == 64
    assert "hunter2" not in done.stdout + done.stderr
    if arguments[0].startswith("--"):
        assert "did you mean --broker-url?" in done.stderr
