"""The three places that give settings: files, environment, command line; each read into Given values and Problems.

The rule this file keeps: a value is shown in a problem only where its row is known and no secret. Of a name that is not
known, the value is never shown: it may be a misspelt secret.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from greenworker.settings import table
from greenworker.settings.files import SourceFile
from greenworker.settings.ini import CONTROL, Document, Entry, normal_key, read_ini
from greenworker.settings.origin import Origin
from greenworker.settings.secrets import HIDDEN, mask_url

_LONGEST_SHOWN = 80


class Place(enum.IntEnum):
    """Who can give a value, from the least to the most weight."""

    FILES = 0
    ENVIRONMENT = 1
    OVERRIDES = 2


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake; they sort by place: files in the order they are read, then environment, then command line."""

    rank: tuple[Place, int]
    where: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.where}:{self.line}: {self.text}" if self.line else f"{self.where}: {self.text}"


@dataclass(frozen=True, slots=True)
class Given:
    """A value that someone gave for a row, as text. ``section`` is ``queue NAME`` for queues, and so for routes."""

    row: table.Row
    section: str
    text: str
    rank: tuple[Place, int]
    where: str
    line: int = 0

    @property
    def place(self) -> Place:
        """Who gave it."""
        return self.rank[0]

    @property
    def name(self) -> tuple[str, str]:
        """Section and key."""
        return self.section, self.row.key

    @property
    def origin(self) -> Origin:
        """What ``Settings.origin`` says of it."""
        if self.place is Place.FILES:
            return Origin("file", f"{self.where}:{self.line}")
        return Origin("environment" if self.place is Place.ENVIRONMENT else "override", self.where)

    def problem(self, text: str) -> Problem:
        """Return a problem at the place of this value."""
        where = f"environment: {self.where}" if self.place is Place.ENVIRONMENT else self.where
        return Problem(self.rank, where, self.line, text)

    def convert(self) -> tuple[Any, Problem | None]:
        """Return (value, None), or (the default, what is wrong). An empty text is the default."""
        if not self.text and _may_be_empty(self.row):
            return self.row.default, None
        reason = _not_text(self)
        if not reason:
            try:
                return self.row.kind.parse(self.text), None
            except ValueError as error:  # kinds never put the value into the message
                reason = f"expected {error}"
        return self.row.default, self.problem(f"bad value {_shown(self)} for [{self.section}] {self.row.key}: {reason}")


def from_file(source: SourceFile, order: int) -> tuple[list[Given], list[Problem]]:
    """Return what one file gives and what is wrong with it; ``order`` is its place among the files."""
    where, rank = str(source.path), (Place.FILES, order)
    if source.text is None:
        return [], [Problem(rank, where, source.line or 0, source.problem)]
    document = read_ini(source.text)
    problems = [Problem(rank, where, line, text) for line, text in _document_problems(document)]
    given = [
        Given(row, entry.section, entry.value, rank, where, entry.line)
        for entry in document.entries
        if (row := table.find_row(entry.section, entry.key)) is not None
    ]
    return given, problems


def from_environment(environ: Mapping[str, str]) -> tuple[list[Given], list[Problem]]:
    """Return what the GREENWORKER_ variables give; one that nothing reads is a problem."""
    rank = (Place.ENVIRONMENT, 0)
    given: list[Given] = []
    problems: list[Problem] = []
    for variable in sorted(environ):
        row = table.ROW_BY_VARIABLE.get(variable)
        if row is not None:
            given.append(Given(row, row.section, environ[variable].strip(), rank, variable))
        elif variable.startswith(table.PREFIX) and variable not in table.OTHER_VARIABLES:
            problems.append(Problem(rank, "environment", 0, f"unknown variable {variable!a}; {_advice_on(variable)}"))
    return given, problems


def from_overrides(overrides: Mapping[tuple[str, str], str], where: str) -> list[Given]:
    """Return what the command line gives. Raises KeyError for a name that is not in the table: a programming fault."""
    return [
        Given(table.ROW_BY_NAME[name], name[0], text.strip(), (Place.OVERRIDES, 0), where)
        for name, text in overrides.items()
    ]


def _may_be_empty(row: table.Row) -> bool:
    return row.default in (None, (), "", {})


def _not_text(given: Given) -> str:
    """Return what is wrong with a text before its kind has a look at it; empty if nothing is."""
    if CONTROL.search(given.text):
        return "expected text, got a control character or bytes that are not UTF-8"
    if not given.text:
        return f"expected {given.row.kind.expected}"
    if "\n" in given.text and not given.row.kind.multiline:
        return f"expected {given.row.kind.expected}, on one line (an indented line goes on with the value above it)"
    return ""


def _shown(given: Given) -> str:
    if given.row.secret:
        return HIDDEN
    # lines after the first may be an indented secret's that went into this value by mistake
    text, newline, _ = given.text.partition("\n")
    text = mask_url(text) if "://" in text else text
    if newline:
        return f"{text[:_LONGEST_SHOWN]!a} and further lines"
    return ascii(text) if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]!a}..."


def _document_problems(document: Document) -> Iterator[tuple[int, str]]:
    yield from document.problems
    for line, section in document.sections:
        if not _is_section(section):
            yield line, _unknown_section(section)
    for entry in document.entries:
        if not _is_section(entry.section):
            continue
        if table.find_row(entry.section, entry.key) is None:
            yield entry.line, _unknown_key(entry)
        yield from _swallowed_lines(entry)


def _is_section(section: str) -> bool:
    return section in _section_names() or bool(table.split_section(section)[1])


def _section_names() -> tuple[str, ...]:
    return tuple(section.name for section in table.SECTIONS)


def _unknown_section(section: str) -> str:
    names = _section_names()
    word, _, name = section.partition(" ")
    for named in table.NAMED_SECTIONS:
        if word == named.name:
            return f"section [{named.name}] needs the {named.of} it is for: expected {named.title}"
        if name and _nearest(word, (named.name,)):
            return f"unknown section [{section}]; did you mean {named.header(name)}?"
    hint = _nearest(section, names)
    if hint:
        return f"unknown section [{section}]; did you mean [{hint}]?"
    named_titles = ", ".join(named.title for named in table.NAMED_SECTIONS)
    return f"unknown section [{section}]; expected one of {', '.join(f'[{name}]' for name in names)}, {named_titles}"


def _advice_on(variable: str) -> str:
    key = variable.removeprefix(table.PREFIX)
    without_section = [row.variable for row in table.ROWS if row.key.upper() == key]
    if without_section:
        return f"did you mean {' or '.join(without_section)}?"
    names = (name.removeprefix(table.PREFIX) for name in (*table.ROW_BY_VARIABLE, *table.OTHER_VARIABLES))
    hint = _nearest(key, names)
    return f"did you mean {table.PREFIX}{hint}?" if hint else "a setting's variable is GREENWORKER_SECTION_KEY"


def _unknown_key(entry: Entry) -> str:
    problem = f"unknown key {entry.written!r} in section [{entry.section}]"
    sections = (*table.SECTIONS, *table.NAMED_SECTIONS)
    homes = [section.title for section in sections if entry.key in _keys(section)]
    if homes:
        return f"{problem}; it belongs in {' or '.join(homes)}"
    here = _section(table.split_section(entry.section)[0])
    hint = _nearest(entry.key, _keys(here))
    if hint:
        return f"{problem}; did you mean {hint!r}?"
    for section in sections:
        hint = _nearest(entry.key, _keys(section), likeness=0.8)
        if hint:
            return f"{problem}; did you mean {hint!r} in {section.title}?"
    return f"{problem}; its keys are {', '.join(_keys(here))}"


def _swallowed_lines(entry: Entry) -> Iterator[tuple[int, str]]:
    """A key or a section that was indented by accident would silently become part of the value above it."""
    for line, text in entry.continued:
        key, equals, _ = text.partition("=")
        header = text[1:-1].strip() if text.startswith("[") and text.endswith("]") else ""
        if equals and table.find_row(entry.section, normal_key(key.strip())) is not None:
            yield (
                line,
                f"key {key.strip()!r} is indented, which makes it part of {entry.key!r} above; remove the indentation",
            )
        elif header and _is_section(header):
            yield (
                line,
                f"section [{header}] is indented, which makes it part of {entry.key!r} above; remove the indentation",
            )


def _section(name: str) -> table.Section:
    return next(section for section in (*table.SECTIONS, *table.NAMED_SECTIONS) if section.name == name)


def _keys(section: table.Section) -> tuple[str, ...]:
    return tuple(row.key for row in section.rows)


def _nearest(name: str, names: Iterable[str], likeness: float = 0.6) -> str:
    return next(iter(difflib.get_close_matches(name, list(names), 1, likeness)), "")
