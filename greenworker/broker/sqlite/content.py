"""What stands in a row of the queue file: kombu's virtual message, its body kept apart.

``head`` is the JSON of kombu's message dictionary without ``body`` (content-type, content-encoding, headers,
properties); the body is its own column, TEXT or BLOB as it came, so that it is neither escaped into JSON nor base64.
The batch path and the kombu transport write and read the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from sys import intern
from typing import Any

from kombu.utils.json import JSONEncoder, object_hook

from greenworker.errors import EncodeError
from greenworker.protocol.message import Envelope

MAX_PRIORITY = 255

_dumps_typed = JSONEncoder(separators=(",", ":")).encode
_encode = json.JSONEncoder(separators=(",", ":")).encode


def _sharing(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose texts are shared with those of other messages: 2 KB less for each message in hand."""
    return {intern(name): intern(value) if type(value) is str else value for name, value in pairs}


# decode() without its search for blanks around the value, which we never write
_scan = json.JSONDecoder(object_pairs_hook=_sharing).raw_decode
_decode_typed = json.JSONDecoder(object_hook=object_hook).decode
_TYPED = '"__type__"'  # how kombu's JSON marks datetimes and the like, which headers rarely have

# Properties of kombu's virtual transports that are none of a message's own: where it came from, how its body is packed.
_TRANSPORT_PROPERTIES = ("delivery_tag", "delivery_info", "body_encoding")


def pack_envelope(envelope: Envelope, exchange: str, routing_key: str) -> str:
    """The head of ``envelope``. Raises EncodeError for headers or properties that JSON cannot hold."""
    properties = {key: value for key, value in envelope.properties.items() if key not in _TRANSPORT_PROPERTIES}
    properties["delivery_info"] = {"exchange": exchange, "routing_key": routing_key}
    return pack_head(
        {
            "content-type": envelope.content_type,
            "content-encoding": envelope.content_encoding,
            "headers": envelope.headers,
            "properties": properties,
        }
    )


def pack_head(message: Mapping[str, Any]) -> str:
    """The head of kombu's message dictionary. Raises EncodeError."""
    head = {key: value for key, value in message.items() if key != "body"}
    try:
        return _encode(head)
    except (TypeError, ValueError):
        try:
            return str(_dumps_typed(head))
        except Exception as exc:  # values bring their own code (__json__), which may raise anything
            raise EncodeError(f"headers or properties of a message cannot be encoded as JSON: {exc}") from exc


def unpack_head(head: str) -> dict[str, Any]:
    """kombu's message dictionary without its body."""
    unpacked: dict[str, Any] = _decode_typed(head) if _TYPED in head else _scan(head)[0]
    return unpacked


def unpack_envelope(head: dict[str, Any], body: str | bytes) -> Envelope:
    """The envelope of a row. ``head`` is used up."""
    properties: dict[str, Any] = head["properties"]
    for name in _TRANSPORT_PROPERTIES:
        properties.pop(name, None)
    return Envelope(body, head.get("content-type"), head.get("content-encoding"), head.get("headers") or {}, properties)


def priority_of(properties: Mapping[str, Any]) -> int:
    """The priority, 0 where there is none: a higher one is delivered first, as on RabbitMQ (on kombu's Redis: last)."""
    try:
        return max(0, min(int(properties["priority"]), MAX_PRIORITY))
    except (KeyError, TypeError, ValueError):
        return 0


def time_to_live_of(properties: Mapping[str, Any]) -> float | None:
    """Seconds that the broker keeps the message, None: until it is taken.

    ``expiration`` (milliseconds) counts for transient messages alone. A persistent one is handed out however late: the
    worker that gets it knows that it is expired and stores REVOKED, where a broker that drops it leaves a waiting
    caller without an answer.
    """
    if properties.get("delivery_mode") != 1:
        return None
    try:
        return max(0.0, int(properties["expiration"]) / 1000)
    except (KeyError, TypeError, ValueError):
        return None
