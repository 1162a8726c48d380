"""Finds the command's file, parses its arguments, runs it, and turns every error into one message and an exit code."""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

import configargparse

import greenworker
from greenworker.errors import EXIT_OK, EXIT_SOFTWARE, EXIT_USAGE, GreenworkerError, SettingsError
from greenworker.settings.command_line import parse_arguments

if TYPE_CHECKING:
    from greenworker.green.patching import Audit

COMMANDS = {
    "worker": "greenworker.cli.worker",
    "call": "greenworker.cli.call",
    "purge": "greenworker.cli.purge",
    "check-config": "greenworker.cli.check_config",
    "print-config": "greenworker.cli.print_config",
}


class Parser(configargparse.ArgumentParser):  # type: ignore[misc]
    """Exits with 64 (EX_USAGE), where argparse has 2; option names cannot be shortened."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


def run(arguments: Sequence[str], audit: Audit | None = None) -> int:
    """Run ``greenworker ARGUMENTS``; returns the exit code. ``audit`` is what patching found, for the worker."""
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        return _run_command(name, arguments[1:], audit)
    if name in {"-V", "--version"}:
        print(f"greenworker {greenworker.__version__}")
        return EXIT_OK
    if name in {"", "-h", "--help", "help"}:
        print(overview())
        return EXIT_OK if name else EXIT_USAGE
    print(f"greenworker: {_no_command(name)}", file=sys.stderr)
    return EXIT_USAGE


def _no_command(name: str) -> str:
    if name.startswith("-"):
        return "the command comes first: greenworker COMMAND [OPTIONS]"
    near = difflib.get_close_matches(name, COMMANDS, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"the commands are: {', '.join(COMMANDS)}"
    return f"there is no command {name!r}; {hint}"


def _run_command(name: str, arguments: Sequence[str], audit: Audit | None) -> int:
    command = importlib.import_module(COMMANDS[name])
    namespace = parse(name, command, arguments)
    namespace.audit = audit
    try:
        return int(command.run(namespace))
    except SettingsError as exc:
        print("\n".join(exc.problems), file=sys.stderr)  # each begins with its own FILE:LINE
        return exc.exit_code
    except GreenworkerError as exc:
        print(f"greenworker {name}: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        return EXIT_SOFTWARE


def parse(name: str, command: ModuleType, arguments: Sequence[str]) -> argparse.Namespace:
    """The command's arguments. Exits with 64 and the usage where they are wrong."""
    parser = Parser(prog=f"greenworker {name}")
    command.configure(parser)
    return parse_arguments(parser, arguments)


def overview() -> str:
    """The list of commands, each with its summary."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{importlib.import_module(module).SUMMARY}" for name, module in COMMANDS.items()]
    return "\n".join(
        [
            "usage: greenworker COMMAND [OPTIONS]",
            "",
            "A task-queue worker that runs Celery messages in green threads, thousands at once in one process.",
            "",
            "commands:",
            *lines,
            "",
            "greenworker COMMAND --help tells more about each.",
        ]
    )
