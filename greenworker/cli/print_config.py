"""``greenworker print-config``: the settings that count, each with its origin, as an INI file."""

from __future__ import annotations

import argparse

from greenworker.cli.messages import warn, warn_of_process_list
from greenworker.errors import EXIT_OK
from greenworker.settings.command_line import add_arguments, settings_from
from greenworker.settings.printing import masked_rows, settings_text

SUMMARY = "Print every setting with where it comes from, secrets masked."

_DESCRIPTION = """\
Print the settings that a worker with the same flags, files and environment would use. A comment above each value says
where it comes from: FILE:LINE, an environment variable, the command line, or the default. The output reads back as an
INI file; a value with a password in it is masked, and stands in a comment: fill it in there, for a masked value is a
mistake wherever settings are read."""

_EPILOG = """\
exit codes: 0 printed, 78 mistakes in the settings

examples:
  greenworker print-config -C /etc/greenworker/shop.ini
  greenworker print-config -C shop.ini -c 50 > shop-with-50-slots.ini
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags, description and examples to its parser."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    add_arguments(parser, shown=())


def run(namespace: argparse.Namespace) -> int:
    """Print the settings and return 0. Raises SettingsError."""
    settings = settings_from(namespace)
    print(settings_text(settings), end="")
    masked = ", ".join(row.name for row in masked_rows(settings))
    if masked:
        warn("print-config", f"the output reads back as an INI file, but masked values are to be filled in: {masked}")
    warn_of_process_list("print-config", settings)
    return EXIT_OK
