"""Settings as an INI file: each value with its origin, secrets masked; it reads back as the same settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from greenworker.settings import table, urls
from greenworker.settings.model import Settings
from greenworker.settings.secrets import mask_url

_HEAD = """\
# greenworker settings: each value under a line that says where it comes from.
# This reads back as an INI file. A value with a secret in it is masked, and stands in a comment."""


def settings_text(settings: Settings) -> str:
    """Return the text, ending in a newline."""
    lines = [_HEAD]
    for section in table.SECTIONS:
        lines += ["", f"[{section.name}]"]
        for row in section.rows:
            lines += _value_lines(row, section.name, getattr(getattr(settings, section.name), row.key), settings)
    for section in table.NAMED_SECTIONS:
        for name, values in getattr(settings, section.plural).items():
            lines += ["", section.header(name)]
            for row in section.rows:
                lines += _value_lines(row, f"{section.name} {name}", getattr(values, row.key), settings)
    return "\n".join(lines) + "\n"


def _value_lines(row: table.Row, section: str, value: Any, settings: Settings) -> Iterator[str]:
    shown = _shown(row, value)
    masked = shown != _written(row, value)
    mark = "#" if masked else ""
    yield f"# {settings.origin(section, row.key)}{', masked' if masked else ''}"
    yield f"{mark}{row.key} = {shown[0]}".rstrip()
    yield from (f"{mark}    {line}" for line in shown[1:])


def masked_rows(settings: Settings) -> tuple[table.Row, ...]:
    """Return the settings whose values hold a secret, and are masked wherever they are shown."""
    values = ((row, getattr(getattr(settings, row.section), row.key)) for row in table.ROWS)
    return tuple(row for row, value in values if _shown(row, value) != _written(row, value))


def _shown(row: table.Row, value: Any) -> list[str]:
    written = _written(row, value)
    return [mask_url(line) for line in written] if row.secret and value is not None else written


def _written(row: table.Row, value: Any) -> list[str]:
    """Return the lines of a value as they would stand in a file; a value that is off is empty there."""
    if value is None:
        return [urls.NO_RESULTS if row.kind is urls.RESULTS_URL else ""]
    return str(row.kind.format(value)).split("\n")
