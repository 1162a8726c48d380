"""The kinds of value a setting can have: text to value, value to text, and what to say was expected.

The rule this file keeps: the message of a ValueError raised here never holds the value that came, because that may be
a secret. Whoever reports the mistake adds the value, or hides it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from greenworker import units

T = TypeVar("T")

LONGEST_DURATION = 3_650 * units.DAY  # longer waits overflow the clocks of some libraries

_TRUE = ("yes", "true", "on", "1")
_FALSE = ("no", "false", "off", "0")


class Kind(Protocol[T]):
    """What a row of the table knows about its values."""

    @property
    def metavar(self) -> str:
        """One word for the value in ``--help``."""

    @property
    def expected(self) -> str:
        """What is accepted, to go after the word "expected", with unit and range."""

    @property
    def multiline(self) -> bool:
        """Whether the value may go on on indented lines."""

    def parse(self, text: str) -> T:
        """Return the value of ``text`` (stripped, not empty). Raises ValueError."""

    def format(self, value: T) -> str:
        """Return text that :meth:`parse` reads back as an equal value."""


@dataclass(frozen=True)
class _OneLine:
    """Base of the kinds that take one line."""

    @property
    def multiline(self) -> bool:
        return False


def _between(minimum: str | None, maximum: str | None) -> str:
    if minimum is not None and maximum is not None:
        return f" from {minimum} to {maximum}"
    if minimum is not None:
        return f" of at least {minimum}"
    return f" of at most {maximum}" if maximum is not None else ""


@dataclass(frozen=True)
class Integer(_OneLine):
    """A whole number."""

    minimum: int
    maximum: int
    metavar: str = "N"

    @property
    def expected(self) -> str:
        return f"a whole number{_between(str(self.minimum), str(self.maximum))}"

    def parse(self, text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not self.minimum <= int(text) <= self.maximum:
            raise ValueError(self.expected)
        return int(text)

    def format(self, value: int) -> str:
        return str(value)


@dataclass(frozen=True)
class Number(_OneLine):
    """A number that may have a fraction."""

    minimum: float
    maximum: float
    metavar: str = "N"

    @property
    def expected(self) -> str:
        return f"a number{_between(f'{self.minimum:g}', f'{self.maximum:g}')}"

    def parse(self, text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,9})?", text) or not self.minimum <= float(text) <= self.maximum:
            raise ValueError(self.expected)
        return float(text)

    def format(self, value: float) -> str:
        return str(int(value)) if value.is_integer() else f"{value:.9f}".rstrip("0")


@dataclass(frozen=True)
class Duration(_OneLine):
    """Seconds, written ``30s``, ``5m``, ``1h``, ``500ms``."""

    minimum: float = 0.0
    maximum: float = LONGEST_DURATION
    metavar: str = "DURATION"

    @property
    def expected(self) -> str:
        ends = _between(
            units.format_duration(self.minimum) if self.minimum else None,
            units.format_duration(self.maximum) if self.maximum < LONGEST_DURATION else None,
        )
        return f"a duration{ends}, such as 30s, 5m, 1h or 500ms (a plain number is seconds)"

    def parse(self, text: str) -> float:
        try:
            seconds = units.parse_duration(text)
        except ValueError:
            raise ValueError(self.expected) from None
        if seconds > self.maximum:
            raise ValueError(f"{self.expected}, of at most {units.format_duration(self.maximum)}")
        if seconds < self.minimum:
            raise ValueError(self.expected)
        return seconds

    def format(self, value: float) -> str:
        return units.format_duration(value)


@dataclass(frozen=True)
class Size(_OneLine):
    """Bytes, written ``64MiB``, ``512KiB``."""

    minimum: int
    maximum: int
    metavar: str = "SIZE"

    @property
    def expected(self) -> str:
        ends = _between(units.format_size(self.minimum), units.format_size(self.maximum))
        return f"a size{ends}, such as 64MiB or 512KiB (a plain number is bytes)"

    def parse(self, text: str) -> int:
        try:
            size_bytes = units.parse_size(text)
        except ValueError:
            raise ValueError(self.expected) from None
        if not self.minimum <= size_bytes <= self.maximum:
            raise ValueError(self.expected)
        return size_bytes

    def format(self, value: int) -> str:
        return units.format_size(value)


@dataclass(frozen=True)
class Boolean(_OneLine):
    """Yes or no."""

    metavar: str = "yes|no"
    expected: str = "yes or no (or true/false, on/off, 1/0)"

    def parse(self, text: str) -> bool:
        if text.lower() not in _TRUE + _FALSE:
            raise ValueError(self.expected)
        return text.lower() in _TRUE

    def format(self, value: bool) -> str:
        return "yes" if value else "no"


@dataclass(frozen=True)
class Choice(_OneLine):
    """One of a few words, in any case; the value is the word as it stands in ``choices``."""

    choices: tuple[str, ...]

    @property
    def metavar(self) -> str:
        return "|".join(self.choices)

    @property
    def expected(self) -> str:
        return f"one of {', '.join(self.choices)}"

    def parse(self, text: str) -> str:
        for choice in self.choices:
            if text.lower() == choice.lower():
                return choice
        raise ValueError(self.expected)

    def format(self, value: str) -> str:
        return value


@dataclass(frozen=True)
class Text(_OneLine):
    """One line of text that matches ``pattern`` as a whole."""

    metavar: str = "TEXT"
    expected: str = "one line of text"
    pattern: str = r"[^\n]+"

    def parse(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise ValueError(self.expected)
        return text

    def format(self, value: str) -> str:
        return value


@dataclass(frozen=True)
class Names:
    """Several names, separated by commas or white space, each matching ``pattern``; doubles are dropped."""

    metavar: str = "NAME,..."
    expected: str = "names separated by commas"
    pattern: str = r"[^,\s=]{1,200}"
    multiline: bool = True

    def parse(self, text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name for name in re.split(r"[,\s]+", text) if name))
        if not names or not all(re.fullmatch(self.pattern, name) for name in names):
            raise ValueError(self.expected)
        return names

    def format(self, value: tuple[str, ...]) -> str:
        return ", ".join(value)


@dataclass(frozen=True)
class Arguments:
    """A broker's own arguments: ``x-max-length=1000, x-overflow=reject-publish``.

    Values that look like a whole number or true/false become that, all others stay text, as brokers want them typed.
    """

    metavar: str = "x-NAME=VALUE,..."
    expected: str = "x-name=value pairs separated by commas, such as x-max-length=1000, x-overflow=reject-publish"
    multiline: bool = True
    _pair: re.Pattern[str] = field(default=re.compile(r"(x-[A-Za-z0-9.\-]{1,100})\s*=\s*([^\s,=]{1,200})"), repr=False)

    def parse(self, text: str) -> Mapping[str, Any]:
        arguments: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in re.split(r"[,\n]", text))):
            pair = self._pair.fullmatch(part)
            if pair is None or pair[1] in arguments:
                raise ValueError(self.expected)
            arguments[pair[1]] = _broker_value(pair[2])
        return MappingProxyType(arguments)

    def format(self, value: Mapping[str, Any]) -> str:
        return ", ".join(
            f"{name}={str(item).lower() if isinstance(item, bool) else item}" for name, item in value.items()
        )


def _broker_value(text: str) -> int | bool | str:
    if re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text):
        return int(text)
    return text == "true" if text in ("true", "false") else text
