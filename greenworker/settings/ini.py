"""Reading an INI file's text into entries, each with its line; which names are known is not decided here.

The rules of the format, stricter than configparser's: a comment starts a line (so ``#`` and ``;`` may stand in values);
``%`` means itself; ``=`` alone separates key and value; a section or a key that comes twice is a mistake; an indented
line goes on with the value above it. ``-`` and capitals in keys are read as ``_`` and small letters.

Standard library only, and nothing that touches sockets or threads: this runs before patching.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_SECTION = re.compile(r"\[\s*([^\[\]\s][^\[\]]{0,300}?)\s*\]")
_KEY = re.compile(r"[A-Za-z0-9_.\-]{1,80}")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


@dataclass(slots=True)
class Entry:
    """One ``key = value``; ``continued`` has the lines' numbers and texts that went on below it."""

    section: str
    key: str
    written: str  # the key as it stands in the file
    line: int
    lines: list[str]
    continued: list[tuple[int, str]] = field(default_factory=list)

    @property
    def value(self) -> str:
        """The value, its lines joined by newlines."""
        return "\n".join(self.lines).strip()


@dataclass(slots=True)
class Document:
    """What an INI file says, in its order, and the lines that say nothing, as (line, problem)."""

    sections: list[tuple[int, str]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)


def normal_key(key: str) -> str:
    """Return a key as the table spells it."""
    return key.lower().replace("-", "_")


def read_ini(text: str) -> Document:
    """Return the entries and problems of an INI file's text. No problem holds a value, which may be a secret."""
    reader = _Reader()
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        reader.feed(number, line.removesuffix("\r"))
    return reader.document


class _Reader:
    """Reads line by line. ``_entry`` is what an indented line goes on with, ``_skipping`` a faulty line's rest."""

    def __init__(self) -> None:
        self.document = Document()
        self._section: str | None = None
        self._entry: Entry | None = None
        self._skipping = False
        self._section_lines: dict[str, int] = {}
        self._key_lines: dict[tuple[str, str], int] = {}

    def feed(self, number: int, line: str) -> None:
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            return
        if CONTROL.search(line):
            self._problem(number, "expected text, got a control character")
        elif line[0] in " \t":
            self._continue(number, stripped)
        elif stripped[0] == "[":
            self._start_section(number, stripped)
        else:
            self._start_entry(number, stripped)

    def _problem(self, number: int, text: str) -> None:
        self.document.problems.append((number, text))
        self._entry, self._skipping = None, True

    def _continue(self, number: int, stripped: str) -> None:
        if self._entry is not None:
            self._entry.lines.append(stripped)
            self._entry.continued.append((number, stripped))
        elif not self._skipping:
            self._problem(
                number, "an indented line goes on with the value above it, and there is none; remove the indentation"
            )

    def _start_section(self, number: int, stripped: str) -> None:
        header = _SECTION.fullmatch(stripped)
        if header is None:
            self._section = None
            self._problem(number, "expected a section such as [worker] or [queue NAME], alone on its line")
            return
        self._section, self._entry, self._skipping = " ".join(header[1].split()), None, False
        first = self._section_lines.setdefault(self._section, number)
        self.document.sections.append((number, self._section))
        if first != number:
            # its keys are still read, so that mistakes among them are reported in the same run
            self.document.problems.append((number, f"duplicate section [{self._section}] (first on line {first})"))

    def _start_entry(self, number: int, stripped: str) -> None:
        written, equals, value = stripped.partition("=")
        written = written.rstrip()
        if not equals or not _KEY.fullmatch(written):
            self._problem(number, "expected 'key = value', with one word before the '='")
            return
        if self._section is None:
            if not self._skipping:
                self._problem(number, f"key {written!r} before any [section]")
            return
        key = normal_key(written)
        first = self._key_lines.setdefault((self._section, key), number)
        if first != number:
            self._problem(number, f"duplicate key {written!r} in section [{self._section}] (first on line {first})")
            return
        self._entry, self._skipping = Entry(self._section, key, written, number, [value.strip()]), False
        self.document.entries.append(self._entry)
