"""The pool's name, found before anything is patched.

The rule this file keeps: it imports nothing that touches sockets or threads (a test starts a fresh interpreter to prove
it). It reads what the full loader reads, with the same parts where it can, but reports nothing: ``load_settings`` does
that later.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import NoReturn

from greenworker.settings.files import CONFIG_FLAGS, read_files
from greenworker.settings.ini import read_ini
from greenworker.settings.table import ROW_BY_NAME

_ROW = ROW_BY_NAME["worker", "pool"]
_DEFAULT = str(_ROW.default)


def find_pool(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return the pool that a command with these arguments (without the program's name) will use.

    The flags count over the environment, that over the INI files, and those over the default, as in ``load_settings``.
    Where the value that counts is no pool's name the default is returned: loading the settings reports it later.
    """
    flags = _Flags(allow_abbrev=False, add_help=False)
    flags.add_argument(*_ROW.flags, dest="pool")
    flags.add_argument(*CONFIG_FLAGS, dest="config_files", action="append", default=[])
    try:
        known = flags.parse_known_args(list(argv))[0]
    except _BadCommandLineError:
        return _DEFAULT
    for text in (known.pool, environ.get(_ROW.variable), _from_files(known.config_files, environ)):
        if text is not None:
            return _valid(text)
    return _DEFAULT


class _BadCommandLineError(Exception):
    """The command's own parser will refuse this command line, with a message."""


class _Flags(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _BadCommandLineError(message)


def _valid(text: str) -> str:
    try:
        return str(_ROW.kind.parse(text.strip()))
    except ValueError:
        return _DEFAULT


def _from_files(named: Sequence[str], environ: Mapping[str, str]) -> str | None:
    for source in reversed(read_files(named, environ)):
        if source.text is None:
            continue
        for entry in read_ini(source.text).entries:
            if (entry.section, entry.key) == (_ROW.section, _ROW.key):
                return entry.value
    return None
