"""From files, environment and command line to Settings: every mistake in any of them reported at once.

Every value given is checked, also where another one counts over it. Which one counts is ConfigArgParse's business:
command line, then environment, then files (the later over the earlier), then the default.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TextIO

import configargparse

from greenworker.errors import SettingsError
from greenworker.settings import checks, table
from greenworker.settings.files import SourceFile, read_files
from greenworker.settings.ini import read_ini
from greenworker.settings.model import Settings
from greenworker.settings.sources import Given, Place, Problem, from_environment, from_file, from_overrides
from greenworker.settings.state import with_urls

COMMAND_LINE = "command line"

# ConfigArgParse's names for where a value came from, up to their '|'
_PLACES = {
    "config_file": Place.FILES,
    "environment_variables": Place.ENVIRONMENT,
    "command_line": Place.OVERRIDES,
}


def load_settings(
    *,
    overrides: Mapping[tuple[str, str], str] | None = None,
    config_files: Sequence[str | Path] = (),
    environ: Mapping[str, str] | None = None,
    overrides_from: str = COMMAND_LINE,
) -> Settings:
    """Return the settings of this process.

    ``overrides`` maps (section, key) to text as it would stand in a file, and counts over all else; ``overrides_from``
    says in messages where it comes from. ``config_files`` are the INI files, later ones counting over earlier ones;
    where there are none, GREENWORKER_CONFIG names one. ``environ`` is ``os.environ`` by default.

    Raises SettingsError, with a line for each mistake, sorted by place.
    """
    environ = os.environ if environ is None else environ
    files = read_files(config_files, environ)
    given, problems = _gather(files, environ, overrides or {}, overrides_from)
    counting = _counting(given, files, environ)
    settings = _settings(counting)

    mistaken = [(value.name, problem) for value in given if (problem := value.convert()[1]) is not None]
    problems += [problem for _, problem in mistaken]
    problems += checks.find_problems(settings, counting, {name for name, _ in mistaken})
    if problems:
        raise SettingsError([str(problem) for problem in sorted(set(problems))])
    return with_urls(settings, environ)


def _gather(
    files: Sequence[SourceFile],
    environ: Mapping[str, str],
    overrides: Mapping[tuple[str, str], str],
    overrides_from: str,
) -> tuple[list[Given], list[Problem]]:
    """Return every value that anyone gives, the least weighty first, and what is wrong with names and lines."""
    given: list[Given] = []
    problems: list[Problem] = []
    for order, source in enumerate(files):
        more_given, more_problems = from_file(source, order)
        given += more_given
        problems += more_problems
    more_given, more_problems = from_environment(environ)
    given += more_given + from_overrides(overrides, overrides_from)
    return given, problems + more_problems


def _counting(
    given: Iterable[Given], files: Sequence[SourceFile], environ: Mapping[str, str]
) -> dict[tuple[str, str], Given]:
    """Return, by section and key, the value that counts. Queues and routes stand in files alone: the last counts."""
    last = {(value.place, value.row.flag): value for value in given}
    counting = {value.name: value for value in given if table.split_section(value.section)[1]}
    merger = _merger()
    merger.parse_args(
        [f"{flag}={value.text}" for (place, flag), value in last.items() if place is Place.OVERRIDES],
        # in one text the first of two equal keys counts, so the last file goes first
        config_file_contents="\n".join(source.text for source in reversed(files) if source.text is not None),
        env_vars=environ,
    )
    for source, decided in merger.get_source_to_settings_dict().items():
        place = _PLACES[source.partition("|")[0]]
        for flag in _flags(place, decided):
            counting[last[place, flag].name] = last[place, flag]
    return counting


def _flags(place: Place, decided: Mapping[str, tuple[Any, Any]]) -> list[str]:
    if place is Place.OVERRIDES:
        return [argument.partition("=")[0] for argument in decided[""][1]]
    return [action.option_strings[0] for action, _ in decided.values()]


class _IniFormat(configargparse.ConfigFileParser):  # type: ignore[misc]
    """Our INI files for ConfigArgParse: ``[section] key`` is ``section-key``. Mistakes were looked for before."""

    def get_syntax_description(self) -> str:
        return "INI"

    def parse(self, stream: TextIO) -> dict[str, str]:
        entries = read_ini(stream.read()).entries
        rows = ((table.ROW_BY_NAME.get((entry.section, entry.key)), entry.value) for entry in entries)
        return {row.flag.removeprefix("--"): value for row, value in rows if row is not None}


class _Merger(configargparse.ArgumentParser):  # type: ignore[misc]
    """ConfigArgParse's parser with an option a row, all of them text, so that nothing is left that it could refuse."""

    def error(self, message: str) -> NoReturn:  # the message may hold a secret
        raise AssertionError("ConfigArgParse refused settings that were checked before")


def _merger() -> _Merger:
    merger = _Merger(config_file_parser_class=_IniFormat, allow_abbrev=False, add_help=False)
    for row in table.ROWS:
        merger.add_argument(row.flag, env_var=row.variable)
    return merger


def _settings(counting: Mapping[tuple[str, str], Given]) -> Settings:
    """Build Settings of the values that count; faulty ones are replaced by their defaults."""
    values: dict[str, dict[str, Any]] = {section.name: {} for section in table.SECTIONS}
    for (section, key), value in counting.items():
        values.setdefault(section, {})[key] = value.convert()[0]
    return Settings(
        **{section.name: section.model(**values[section.name]) for section in table.SECTIONS},
        queues=_named(table.QUEUE, values),
        routes=_named(table.ROUTE, values),
        origins=MappingProxyType({name: value.origin for name, value in counting.items()}),
    )


def _named(section: table.Section, values: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return what the sections such as [queue NAME] give, by their names."""
    headers = ((table.split_section(header), header) for header in values)
    return MappingProxyType(
        {name: section.model(**values[header]) for (word, name), header in headers if name and word == section.name}
    )
