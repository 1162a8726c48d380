"""Reads one field of a task message, or says what was expected there and what came.

A field comes from a header (where it may be bytes: AMQP has no text type) or from a body of protocol 1.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from greenworker.errors import MalformedMessage
from greenworker.protocol.display import shown

MAX_ID_BYTES = 255  # an AMQP correlation id holds no more, and replies carry the task id there
MAX_WHOLE_NUMBER = 2**31 - 1  # what every broker and database can keep
_MAX_SECONDS = 1_000_000_000  # thirty years
_EARLIEST_EXPIRY = 1_000_000_000  # September 2001, in seconds since 1970


def text(value: Any, name: str) -> str | None:
    """Text or None. Text that cannot be written as UTF-8 is refused here, before a log or a database meets it."""
    if value is None:
        return None
    if isinstance(value, str):
        if value.isascii():
            return value
        try:
            value.encode()
        except UnicodeEncodeError:
            raise wrong(name, "text without lone surrogates", value) from None
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise wrong(name, "text in UTF-8", value) from None
    raise wrong(name, "text", value)


def required_text(value: Any, name: str, max_bytes: int | None = None) -> str:
    """Text that is not empty and, where ``max_bytes`` is given, not longer."""
    found = text(value, name)
    if not found:
        raise wrong(name, "text that is not empty", value)
    if max_bytes is not None and len(found.encode()) > max_bytes:
        raise wrong(name, f"at most {max_bytes} bytes", value)
    return found


def whole_number(value: Any, name: str) -> int | None:
    """A whole number from 0 to MAX_WHOLE_NUMBER, or None. True and False are none."""
    if value is None or (type(value) is int and 0 <= value <= MAX_WHOLE_NUMBER):
        return value
    raise wrong(name, f"a whole number from 0 to {MAX_WHOLE_NUMBER}", value)


def flag(value: Any, name: str) -> bool | None:
    """True, False or None."""
    if value is None or value is True or value is False:
        return value
    raise wrong(name, "true or false", value)


def point_in_time(value: Any, name: str) -> datetime | None:
    """An ISO 8601 date, or a datetime where the serializer has them, as aware UTC; one without a zone is UTC."""
    if value is None:
        return None
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(text(value, name) or "")
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise wrong(name, "an ISO 8601 date", value) from None


def expiry(value: Any, name: str) -> datetime | None:
    """As ``point_in_time``; also a number, as old clients send it: seconds since 1970.

    Small numbers are refused: they can only be meant as seconds from the time of sending, which no message tells.
    """
    if type(value) not in (int, float):
        return point_in_time(value, name)
    try:
        if value < _EARLIEST_EXPIRY:
            raise wrong(name, "an ISO 8601 date or seconds since 1970", value)
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        raise wrong(name, "a date before the year 10000", value) from None


def time_limits(value: Any) -> tuple[float | None, float | None]:
    """Celery's ``timelimit``: ``[hard, soft]``, each seconds, or null or 0 for none."""
    if value is None:
        return None, None
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise wrong("timelimit", "[hard, soft]", value)
    hard, soft = value
    if hard is None and soft is None:
        return None, None
    return _limit(hard), _limit(soft)


def sequence(value: Any, name: str) -> list[Any] | None:
    """A list or None; a tuple becomes a list."""
    if value is None or isinstance(value, list):
        return value
    if isinstance(value, tuple):
        return list(value)
    raise wrong(name, "a list", value)


def signatures(value: Any, name: str) -> list[Any] | None:
    """A list of task signatures or None; a signature alone becomes a list."""
    return [value] if isinstance(value, dict) else sequence(value, name)


def mapping(value: Any, name: str) -> dict[str, Any] | None:
    """A mapping or None."""
    if value is None or isinstance(value, dict):
        return value
    raise wrong(name, "a mapping", value)


def keyword_arguments(value: Any) -> dict[str, Any]:
    """A task's kwargs: a mapping whose keys are text; None is empty."""
    found = mapping(value, "kwargs")
    if not found:
        return {}
    for key in found:
        if type(key) is not str:
            raise wrong("kwargs", "a mapping whose keys are text", key, "a key")
    return found


def wrong(name: str, expected: str, value: Any, what: str = "") -> MalformedMessage:
    """The error for field ``name`` (``what`` of it): what was expected, what came."""
    return MalformedMessage(f"{name}: expected {expected}, got {what + ' ' if what else ''}{shown(value)}")


def _limit(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= _MAX_SECONDS:
        raise wrong("timelimit", f"seconds from 0 to {_MAX_SECONDS} or nothing for each of [hard, soft]", value)
    return value or None
