"""``greenworker check-config``: every mistake in the INI files and the environment, at once."""

from __future__ import annotations

import argparse
import sys

from greenworker.cli.messages import warn_of_process_list
from greenworker.errors import EXIT_CONFIG, EXIT_OK, SettingsError
from greenworker.settings.command_line import add_arguments, settings_from
from greenworker.settings.model import Settings
from greenworker.settings.secrets import mask

SUMMARY = "Check INI files, environment and flags; name every mistake."

_DESCRIPTION = """\
Read the settings as a worker with the same flags, files and environment would, and name every mistake in them at once,
sorted, as FILE:LINE: what is wrong, what was expected. Nothing is connected to, and no secret is shown."""

_EPILOG = """\
exit codes: 0 no mistake, 78 mistakes

examples:
  greenworker check-config -C /etc/greenworker/shop.ini
  greenworker check-config -C base.ini -C shop.ini        shop.ini counts over base.ini
  GREENWORKER_WORKER_CONCURRENCY=50 greenworker check-config -C shop.ini
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags, description and examples to its parser."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    add_arguments(parser, shown=())


def run(namespace: argparse.Namespace) -> int:
    """Print what the settings come to and return 0, or print the mistakes on stderr and return 78."""
    try:
        settings = settings_from(namespace)
    except SettingsError as error:
        print(error, file=sys.stderr)
        print(_count(len(error.problems)), file=sys.stderr)
        return EXIT_CONFIG
    print(_outcome(settings))
    warn_of_process_list("check-config", settings)
    return EXIT_OK


def _count(problems: int) -> str:
    return "1 mistake" if problems == 1 else f"{problems} mistakes"


def _outcome(settings: Settings) -> str:
    given = len(settings.origins)
    return "\n".join(
        (
            f"OK: {given} {'setting' if given == 1 else 'settings'} given, the others are defaults",
            f"  app      {settings.worker.app or 'none'}",
            f"  pool     {settings.worker.pool}, {settings.worker.concurrency} slots",
            f"  broker   {mask(settings.broker.url)}",
            f"  results  {mask(settings.results.url) or 'none'}",
            f"  queues   {', '.join(settings.worker.taken_queues)}",
        )
    )
