"""The settings as rows: one a setting, with all its names; made from the dataclasses in ``model`` alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from greenworker.settings.columns import Column
from greenworker.settings.files import CONFIG_VARIABLE
from greenworker.settings.kinds import Kind
from greenworker.settings.model import (
    BrokerSettings,
    ConsumerSettings,
    LogSettings,
    QueueSettings,
    ResultsSettings,
    RouteSettings,
    TaskSettings,
    WorkerSettings,
)

PREFIX = "GREENWORKER_"

# What the environment may hold under our prefix besides a variable a row, and what each is for
OTHER_VARIABLES = {CONFIG_VARIABLE: "names the INI file when -C/--config does not"}


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. ``default`` is None where the setting is off, or worked out, when nobody gives it."""

    section: str
    key: str
    kind: Kind[Any]
    default: Any
    help: str
    secret: bool
    short_flags: tuple[str, ...]
    default_note: str

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"[{self.section}] {self.key}"

    @property
    def flag(self) -> str:
        """The flag that every setting has."""
        return f"--{self.section}-{self.key}".replace("_", "-")

    @property
    def flags(self) -> tuple[str, ...]:
        """All its flags, the ones people type first."""
        return (*self.short_flags, self.flag)

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"{PREFIX}{self.section}_{self.key}".upper()

    @property
    def default_text(self) -> str:
        """Its default for people to read: a value as it would be written, or a note in words."""
        return self.default_note or self.kind.format(self.default)


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the INI file, and the dataclass its rows come from.

    With ``of`` there may be many, each with what ``of`` stands for after the section's name: [queue NAME]. Their values
    are in Settings under ``plural``, by that name.
    """

    name: str
    model: type[Any]
    of: str = ""
    plural: str = ""
    example: str = ""

    @property
    def help(self) -> str:
        """The dataclass's docstring, each of its paragraphs on one line."""
        return inspect.cleandoc(str(self.model.__doc__))

    @property
    def title(self) -> str:
        """Its header, as it stands in an INI file."""
        return self.header(self.of)

    def header(self, name: str) -> str:
        """The header of the section with this name of its own, if it has any."""
        return f"[{self.name} {name}]" if name else f"[{self.name}]"

    @property
    def rows(self) -> tuple[Row, ...]:
        """Its settings, in the order of the dataclass."""
        return tuple(_rows(self))


SECTIONS = (
    Section("worker", WorkerSettings),
    Section("consumer", ConsumerSettings),
    Section("task", TaskSettings),
    Section("broker", BrokerSettings),
    Section("results", ResultsSettings),
    Section("log", LogSettings),
)
QUEUE = Section("queue", QueueSettings, "NAME", "queues", "celery")
ROUTE = Section("route", RouteSettings, "PATTERN", "routes", "shop.*")
NAMED_SECTIONS = (QUEUE, ROUTE)


def _rows(section: Section) -> Iterator[Row]:
    for field in fields(section.model):
        column: Column = field.metadata["column"]
        yield Row(
            section.name,
            field.name,
            column.kind,
            _default(field),
            column.help,
            column.secret,
            column.flags,
            column.default_note,
        )


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


ROWS = tuple(row for section in SECTIONS for row in section.rows)
NAMED_ROWS = tuple(row for section in NAMED_SECTIONS for row in section.rows)

ROW_BY_NAME = {(row.section, row.key): row for row in ROWS}
NAMED_ROW_BY_NAME = {(row.section, row.key): row for row in NAMED_ROWS}
ROW_BY_VARIABLE = {row.variable: row for row in ROWS}


def split_section(section: str) -> tuple[str, str]:
    """Return ("queue", NAME) of a section called ``queue NAME``, and likewise for the other named sections.

    The second is empty for any other section.
    """
    word, _, name = section.partition(" ")
    is_named = any(word == named.name for named in NAMED_SECTIONS)
    return (word, name.strip()) if is_named and name.strip() else (section, "")


def find_row(section: str, key: str) -> Row | None:
    """Return the row of ``[section] key``, ``section`` being ``queue NAME`` for queues."""
    word, name = split_section(section)
    return NAMED_ROW_BY_NAME.get((word, key)) if name else ROW_BY_NAME.get((word, key))
