"""The flags that every command shares, and Settings from what they were given."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence

from greenworker.settings import table
from greenworker.settings.files import CONFIG_FLAGS, CONFIG_VARIABLE
from greenworker.settings.load import load_settings
from greenworker.settings.model import Settings
from greenworker.settings.printing import masked_rows

WORDS = "words"
_CONFIG_DESTINATION = "config_files"
_PRECEDENCE = "The command line counts over the environment, that over the files, and those over the defaults."
_OTHERS = 'The flags of all other settings, which "greenworker worker --help" lists, work too.'


class SettingsHelpFormatter(argparse.HelpFormatter):
    """Help for many flags: the usage has those that people type, and a value's name stands once behind all spellings.

    Paragraphs of the description and the epilog are filled, but for those with indented lines, which stay as they are.
    """

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[argparse._MutuallyExclusiveGroup],
        prefix: str | None = None,
    ) -> None:
        """Called by argparse with all actions, in the order they were added."""
        short = [action for action in actions if "." not in action.dest or min(map(len, action.option_strings)) == 2]
        super().add_usage(usage, short, groups, prefix)

    def _format_action_invocation(self, action: argparse.Action) -> str:  # as Python 3.13 does
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join(
            paragraph if "\n " in paragraph else super(SettingsHelpFormatter, self)._fill_text(paragraph, width, indent)
            for paragraph in paragraphs
        )


def add_arguments(parser: argparse.ArgumentParser, shown: Collection[str] | None = None) -> None:
    """Add ``-C/--config`` and the flags of every setting, a group a section; read them with :func:`settings_from`.

    ``shown`` names the settings that ``--help`` lists, such as ``broker.url``; None: all. The others are accepted too,
    so that one command line serves a worker and the commands beside it. Values stay text until they are read, so that
    mistakes in them are reported together with all others. Also switches off abbreviated flags (``--broker-u`` must not
    become another flag's name when one is added), and sets the formatter.
    """
    parser.allow_abbrev = False
    parser.formatter_class = SettingsHelpFormatter
    files = parser.add_argument_group("settings files", _PRECEDENCE if shown is None else f"{_PRECEDENCE} {_OTHERS}")
    files.add_argument(
        *CONFIG_FLAGS,
        dest=_CONFIG_DESTINATION,
        metavar="FILE",
        action="append",
        default=[],
        help="An INI file; conf.d/*.ini beside it are read after it. May be given several times, later ones counting "
        f"over earlier ones. Without it, ${CONFIG_VARIABLE} names one.",
    )
    for section in table.SECTIONS:
        visible = [row for row in section.rows if shown is None or _destination(row) in shown]
        group = parser.add_argument_group(section.title, section.help) if visible else parser
        for row in section.rows:
            group.add_argument(
                *row.flags,
                dest=_destination(row),
                metavar=row.kind.metavar,
                default=argparse.SUPPRESS,
                help=_help(row) if row in visible else argparse.SUPPRESS,
            )


def _help(row: table.Row) -> str:
    return f"{row.help} Default: {row.default_text or 'none'}.".replace("%", "%%")


def parse_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line, options before, between or after arguments; unknown ones end in ``parser.error``.

    A command that takes arguments has one positional, called WORDS, for all of them; what follows ``--`` is added here,
    as argparse loses a ``--`` in front of the first one. Unknown arguments are not printed whole, as
    ``parser.parse_intermixed_args`` does: a misspelt flag's value may be a secret.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    namespace, unknown = parser.parse_known_intermixed_args(list(arguments[:end]))
    getattr(namespace, WORDS, unknown).extend(arguments[end + 1 :])
    if unknown:
        # argparse tells nobody else which flags a parser has
        parser.error(_unknown_text(unknown, tuple(parser._option_string_actions)))
    return namespace


def _unknown_text(unknown: Sequence[str], known: Sequence[str]) -> str:
    names = [name.partition("=")[0] if name.startswith("--") else name[:2] for name in unknown if name.startswith("-")]
    if not names:
        return "unexpected argument (not shown: it may be a secret); see --help"
    hints = {name: next(iter(difflib.get_close_matches(name, known, 1)), "") for name in names}
    return "; ".join(
        f"unknown option {name}" + (f", did you mean {hint}?" if hint else ", see --help")
        for name, hint in hints.items()
    )


def settings_from(namespace: argparse.Namespace, environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings for a command line parsed with the flags of :func:`add_arguments`. Raises SettingsError."""
    given = vars(namespace)
    return load_settings(
        overrides={
            name: given[_destination(row)] for name, row in table.ROW_BY_NAME.items() if _destination(row) in given
        },
        config_files=config_files(namespace),
        environ=environ,
    )


def config_files(namespace: argparse.Namespace) -> tuple[str, ...]:
    """Return the files named with ``-C/--config``, in order."""
    return tuple(getattr(namespace, _CONFIG_DESTINATION, ()))


def process_list_warnings(settings: Settings) -> tuple[str, ...]:
    """Return a sentence for each secret given on the command line. A URL without a password is none."""
    return tuple(
        f"{row.name} was given on the command line, where every user sees it; "
        "put it in an INI file: the process list shows its password"
        for row in masked_rows(settings)
        if settings.origin(row.section, row.key).kind == "override"
    )


def _destination(row: table.Row) -> str:
    return f"{row.section}.{row.key}"
