"""Durations and sizes as people write them (``30s``, ``64MiB``), to and from seconds and bytes."""

from __future__ import annotations

import math
import re
from decimal import Decimal

MILLISECOND = 0.001
SECOND = 1.0
MINUTE = 60.0
HOUR = 3_600.0
DAY = 86_400.0

KIB = 1_024
MIB = 1_024**2
GIB = 1_024**3

_SECONDS_PER_UNIT = {"ms": MILLISECOND, "s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_BYTES_PER_UNIT = {
    "b": 1,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": 1_024**4,
    "kb": 1_000,
    "mb": 1_000**2,
    "gb": 1_000**3,
    "tb": 1_000**4,
}
_NUMBER_AND_UNIT = re.compile(r"(\d{1,18}(?:\.\d{1,30})?)\s*([A-Za-z]*)", re.ASCII)
_DURATION_PART = re.compile(r"(\d{1,18}(?:\.\d{1,30})?)(ms|[smhdw])", re.ASCII)


def parse_duration(text: str) -> float:
    """Return seconds for ``30s``, ``5m``, ``1h``, ``500ms``, ``1d``, ``2w``, ``1h30m``; a plain number is seconds.

    Raises ValueError for anything else, negative numbers, ``nan`` and ``inf`` among it.
    """
    stripped = text.strip()
    whole = _NUMBER_AND_UNIT.fullmatch(stripped)
    if whole and whole[2] in {"", *_SECONDS_PER_UNIT}:
        return _times(whole[1], _SECONDS_PER_UNIT[whole[2] or "s"])
    parts = _DURATION_PART.findall(stripped)
    units = [_SECONDS_PER_UNIT[unit] for _, unit in parts]
    if not parts or "".join(map("".join, parts)) != stripped or units != sorted(set(units), reverse=True):
        raise ValueError("expected a duration such as 30s, 5m, 1h or 500ms (a plain number is seconds)")
    return math.fsum(_times(number, unit) for (number, _), unit in zip(parts, units, strict=True))


def format_duration(seconds: float) -> str:
    """Return the shortest text that :func:`parse_duration` reads back as exactly ``seconds``."""
    for unit in ("d", "h", "m", "s", "ms"):
        count = seconds / _SECONDS_PER_UNIT[unit]
        if count >= 1 and count.is_integer() and _times(str(int(count)), _SECONDS_PER_UNIT[unit]) == seconds:
            return f"{int(count)}{unit}"
    return "0s" if seconds == 0 else f"{Decimal(repr(seconds)):f}s"


def parse_size(text: str) -> int:
    """Return bytes for ``64MiB``, ``512KiB``, ``1GiB``, ``10MB``; a plain number is bytes. Raises ValueError."""
    whole = _NUMBER_AND_UNIT.fullmatch(text.strip())
    unit = whole[2].lower() if whole else "?"
    if whole is None or (unit or "b") not in _BYTES_PER_UNIT:
        raise ValueError("expected a size such as 64MiB, 512KiB or 1GiB (a plain number is bytes)")
    size = _times(whole[1], _BYTES_PER_UNIT[unit or "b"])
    if not float(size).is_integer():
        raise ValueError("expected a size that is a whole number of bytes")
    return int(size)


def format_size(size_bytes: int) -> str:
    """Return the shortest text that :func:`parse_size` reads back as exactly ``size_bytes``."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size_bytes >= factor and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return f"{size_bytes}B"


def _times(number: str, unit: float) -> float:
    """Whole numbers stay whole numbers, so that large sizes are exact; ``500ms`` is 0.5, not 500 * 0.001."""
    if unit == MILLISECOND:
        return float(number) / 1_000
    return int(number) * unit if "." not in number else float(number) * unit
