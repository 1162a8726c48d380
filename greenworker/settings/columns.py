"""How a setting is declared: the field of a section's dataclass (``model``), with its column in the table.

A new property of all settings is a field of Column; a new setting is a field in ``model``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from greenworker.settings.kinds import Kind

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column:
    """What a field of a section's dataclass says of its setting, apart from its name and default."""

    kind: Kind[Any]
    help: str
    flags: tuple[str, ...] = ()  # besides --section-key, which every setting has
    secret: bool = False
    default_note: str = ""  # what no value means, where a value cannot say it


def setting(
    default: T, kind: Kind[T], help: str, *, flags: tuple[str, ...] = (), secret: bool = False, default_note: str = ""
) -> T:
    """Declare a setting that always has a value."""
    column = Column(kind, help, flags, secret, default_note)
    if isinstance(default, Mapping):
        return field(default_factory=lambda: default, metadata={"column": column})
    return field(default=default, repr=not secret, metadata={"column": column})


def optional(
    kind: Kind[T], help: str, *, flags: tuple[str, ...] = (), secret: bool = False, default_note: str = "not set"
) -> T | None:
    """Declare a setting that is None when nobody gave it, or gave it empty."""
    column = Column(kind, help, flags, secret, default_note)
    return field(default=None, repr=not secret, metadata={"column": column})
