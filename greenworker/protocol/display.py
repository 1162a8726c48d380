"""A repr for people that is bounded in length and depth, whatever it is given: for argsrepr, errors and logs.

Strings keep Python's own escapes, unlike in Celery's saferepr: a line break in a task's arguments must not start a new
line in a log.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MAX_REPR_CHARS = 1024  # as Celery's argsrepr
MAX_REPR_LEVELS = 3  # containers within containers, as Celery's task_repr_maxlevels

_PLAIN = frozenset({type(None), bool, float, complex})


def bounded_repr(value: Any, max_chars: int = MAX_REPR_CHARS, max_levels: int = MAX_REPR_LEVELS) -> str:
    """The repr of ``value``, cut with ``...`` after ``max_chars`` characters and below ``max_levels`` containers.

    Closing brackets of what was cut are added, so the text may be some more characters long. Never raises.
    """
    writer = _Writer(max_chars)
    writer.write(value, max_levels)
    return "".join(writer.pieces)


def shown(value: Any) -> str:
    """``value`` for an error message: its type and the beginning of its repr."""
    return f"{bounded_repr(value, 80)} ({type(value).__name__})" if value is not None else "nothing"


def text_of(value: object) -> str:
    """``str(value)``, whatever its class does. Never raises."""
    try:
        return str(value)
    except Exception as exc:  # a str is anyone's code, as a repr is
        return f"<{type(value).__name__}, its str raised {type(exc).__name__}>"


def bounded_text(text: str, max_chars: int) -> str:
    """``text``, cut with ``...`` to ``max_chars`` characters."""
    return text if len(text) <= max_chars else text[: max(0, max_chars - 3)] + "..."


class _Writer:
    """Collects pieces until ``left`` characters are used up; then one ``...``, and closing brackets."""

    __slots__ = ("cut", "left", "pieces")

    def __init__(self, left: int) -> None:
        self.cut = False
        self.left = left
        self.pieces: list[str] = []

    def write(self, value: Any, levels: int) -> None:
        kind = type(value)
        if kind in _PLAIN:
            self._put(repr(value))
        elif isinstance(value, (str, bytes, bytearray)):
            self._put(repr(value[: self.left + 1]))  # cut first: the repr of a huge body is never made
        elif kind is int:
            self._put(_int_repr(value))
        elif isinstance(value, dict):
            self._dict(value, levels)
        elif isinstance(value, (list, tuple, set, frozenset)):
            self._sequence(value, levels)
        else:
            self._put(_object_repr(value))

    def _dict(self, value: dict[Any, Any], levels: int) -> None:
        if levels <= 0:
            self._put("{...}")
            return
        self._put("{")
        for number, (key, item) in enumerate(value.items()):
            if not self._separate(number):
                break
            self.write(key, levels - 1)
            self._put(": ")
            self.write(item, levels - 1)
        self.pieces.append("}")

    def _sequence(self, value: Iterable[Any], levels: int) -> None:
        opening, closing = _brackets(value)
        if levels <= 0:
            self._put(f"{opening}...{closing}")
            return
        self._put(opening)
        for number, item in enumerate(value):
            if not self._separate(number):
                break
            self.write(item, levels - 1)
        self.pieces.append(closing)

    def _separate(self, number: int) -> bool:
        """Write what stands before item ``number``; False if no room is left for it."""
        if self.left <= 0:
            self._cut(", ..." if number else "...")
            return False
        if number:
            self._put(", ")
        return True

    def _put(self, text: str) -> None:
        if len(text) > self.left:
            self.pieces.append(text[: self.left])
            self._cut("...")
        else:
            self.pieces.append(text)
        self.left = max(0, self.left - len(text))

    def _cut(self, mark: str) -> None:
        if not self.cut:
            self.pieces.append(mark)
        self.cut = True


def _brackets(value: Iterable[Any]) -> tuple[str, str]:
    if isinstance(value, list):
        return "[", "]"
    if isinstance(value, tuple):
        return "(", ",)" if len(value) == 1 else ")"
    if not value:
        return f"{type(value).__name__}(", ")"
    return ("{", "}") if type(value) is set else (f"{type(value).__name__}({{", "})")


def _int_repr(value: int) -> str:
    try:
        return repr(value)
    except ValueError:  # more digits than sys.get_int_max_str_digits()
        return f"<int of {value.bit_length()} bits>"


def _object_repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception as exc:  # a repr is anyone's code; the text that is made here must not depend on it
        return f"<{type(value).__name__}, its repr raised {type(exc).__name__}>"
