"""The settings as rows: one a setting, with all its names; made from the dataclasses in ``model`` alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from greenworker.settings.files import CONFIG_VARIABLE
from greenworker.settings.kinds import Kind
from greenworker.settings.model import (
    BrokerSettings,
    Column,
    ConsumerSettings,
    LogSettings,
    QueueSettings,
    ResultsSettings,
    TaskSettings,
    WorkerSettings,
)

PREFIX = "GREENWORKER_"
QUEUE_SECTION = "queue"  # its sections are [queue NAME]

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
    """A section of the INI file, and the dataclass its rows come from."""

    name: str
    model: type[Any]

    @property
    def help(self) -> str:
        """The first paragraph of the dataclass's docstring."""
        return str(self.model.__doc__)

    @property
    def title(self) -> str:
        """Its header, as it stands in an INI file."""
        return f"[{self.name} NAME]" if self.name == QUEUE_SECTION else f"[{self.name}]"

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
QUEUE = Section(QUEUE_SECTION, QueueSettings)


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
QUEUE_ROWS = QUEUE.rows

ROW_BY_NAME = {(row.section, row.key): row for row in ROWS}
QUEUE_ROW_BY_KEY = {row.key: row for row in QUEUE_ROWS}
ROW_BY_VARIABLE = {row.variable: row for row in ROWS}


def queue_name(section: str) -> str | None:
    """Return NAME of a section called ``queue NAME``; None for any other section."""
    word, space, name = section.partition(" ")
    return name.strip() if space and word == QUEUE_SECTION and name.strip() else None


def find_row(section: str, key: str) -> Row | None:
    """Return the row of ``[section] key``, ``section`` being ``queue NAME`` for queues."""
    if queue_name(section) is not None:
        return QUEUE_ROW_BY_KEY.get(key)
    return ROW_BY_NAME.get((section, key))
