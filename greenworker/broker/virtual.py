"""kombu's virtual message, in which its transports without a protocol of their own keep a message, as JSON.

A mapping of ``body``, ``content-type``, ``content-encoding``, ``headers`` and ``properties``; of the properties three
are the transport's own. The embedded broker keeps the body beside it, Redis inside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from sys import intern
from typing import Any

from kombu.utils.json import JSONEncoder, object_hook

from greenworker.errors import EncodeError
from greenworker.protocol.message import Envelope

# Properties of kombu's virtual transports that are none of a message's own: where it came from, how its body is packed.
TRANSPORT_PROPERTIES = ("delivery_tag", "delivery_info", "body_encoding")

_dumps_typed = JSONEncoder(separators=(",", ":")).encode
_encode = json.JSONEncoder(separators=(",", ":")).encode


def _sharing(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose texts are shared with those of other messages: 2 KB less for each message in hand."""
    return {intern(name): intern(value) if type(value) is str else value for name, value in pairs}


# decode() without its search for blanks around the value, which neither kombu nor we write
_scan = json.JSONDecoder(object_pairs_hook=_sharing).raw_decode
_decode_typed = json.JSONDecoder(object_hook=object_hook).decode
_TYPED = '"__type__"'  # how kombu's JSON marks datetimes and the like, which headers rarely have


def encode_message(message: Mapping[str, Any]) -> str:
    """The JSON of a virtual message. Raises EncodeError for headers or properties that JSON cannot hold."""
    try:
        return _encode(message)
    except (TypeError, ValueError):
        try:
            return str(_dumps_typed(message))
        except Exception as exc:  # values bring their own code (__json__), which may raise anything
            raise EncodeError(f"headers or properties of a message cannot be encoded as JSON: {exc}") from exc


def decode_message(text: str) -> dict[str, Any]:
    """The virtual message. Raises ValueError for what is no JSON."""
    message: dict[str, Any] = _decode_typed(text) if _TYPED in text else _scan(text)[0]
    return message


def own_properties(properties: Mapping[str, Any]) -> dict[str, Any]:
    """``properties`` without the transport's."""
    return {key: value for key, value in properties.items() if key not in TRANSPORT_PROPERTIES}


def envelope_of(message: dict[str, Any], body: str | bytes) -> Envelope:
    """The envelope of a virtual message. Raises KeyError for one without properties."""
    return Envelope(
        body,
        message.get("content-type"),
        message.get("content-encoding"),
        message.get("headers") or {},
        own_properties(message["properties"]),  # a new, smaller dictionary: tasks in hand are thousands
    )
