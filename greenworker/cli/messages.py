"""Warnings of the commands that run for a moment, on standard error. (The worker logs its own.)"""

from __future__ import annotations

import sys

from greenworker.settings.command_line import process_list_warnings
from greenworker.settings.model import Settings


def warn(command: str, text: str) -> None:
    """Print a warning of ``greenworker COMMAND``."""
    print(f"greenworker {command}: warning: {text}", file=sys.stderr)


def warn_of_process_list(command: str, settings: Settings) -> None:
    """Warn of secrets that were given on the command line."""
    for text in process_list_warnings(settings):
        warn(command, text)
