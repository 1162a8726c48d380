"""Serializers, both ways: values to bytes and back, by kombu's names and content types, its registry underneath.

JSON is kombu's dialect (datetimes, UUIDs, decimals, bytes are ``{"__type__": ..., "__value__": ...}``) by a short cut:
a body in which no such object can be is decoded without the hook that looks at every object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from kombu.exceptions import SerializerNotInstalled
from kombu.serialization import dumps, loads, registry
from kombu.utils.json import JSONEncoder, object_hook

from greenworker.errors import EncodeError, MalformedMessage
from greenworker.protocol.display import bounded_text, shown

JSON = "application/json"
MAX_DEPTH = 200

_dumps: Callable[..., Any] = dumps
_loads: Callable[..., Any] = loads
_encode_json = JSONEncoder().encode
_decode_plain_json = json.JSONDecoder().decode
_decode_typed_json = json.JSONDecoder(object_hook=object_hook).decode

# Few, and none whose codec takes long for some inputs (idna, punycode). "binary" is what kombu sends for bytes.
_ENCODINGS: Mapping[str, str] = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "binary": "utf-8",
    "us-ascii": "utf-8",
    "ascii": "utf-8",
    "utf-16": "utf-16",
    "utf-32": "utf-32",
    "iso-8859-1": "latin-1",
    "latin-1": "latin-1",
}


def encode(value: Any, serializer: str) -> tuple[bytes, str, str]:
    """``value`` as ``(body, content_type, content_encoding)``.

    ``serializer`` is json, yaml, msgpack, pickle or another name in kombu's registry. Raises EncodeError for a value
    that it cannot encode, and for a serializer that is unknown or not installed.
    """
    try:
        if serializer == "json":
            return _encode_json(value).encode(), JSON, "utf-8"
        content_type, content_encoding, body = _dumps(value, serializer=serializer)
    except SerializerNotInstalled:
        names = ", ".join(serializer_names())
        raise EncodeError(
            f"serializer {bounded_text(serializer, 80)!r}: not available here, expected one of {names}"
        ) from None
    except Exception as exc:  # values bring their own code (__json__, __reduce__), which may raise anything
        why = bounded_text(str(exc.__cause__ or exc), 300)
        raise EncodeError(f"cannot be encoded as {serializer}: {why}; the value is {shown(value)}") from exc
    return body.encode() if isinstance(body, str) else bytes(body), content_type, content_encoding


def decode(
    body: bytes | str,
    content_type: str | None,
    content_encoding: str | None,
    accept: Collection[str],
    max_depth: int = MAX_DEPTH,
) -> Any:
    """The value in ``body``, whose nesting is at most ``max_depth``.

    ``accept`` has names or content types of serializers; nothing else is decoded. Raises MalformedMessage.
    """
    if content_type != JSON or not ("json" in accept or JSON in accept):
        check_accepted(content_type, accept)
    encoding = _ENCODINGS.get(content_encoding or "utf-8") if isinstance(content_encoding, (str, type(None))) else None
    if encoding is None:
        encoding = _other_encoding(content_encoding)
    if not body:
        raise MalformedMessage(f"body: expected {content_type}, got no byte")
    try:
        if content_type == JSON:
            return _decode_json(body, encoding, max_depth)
        value = _loads(body, content_type, content_encoding, accept=(content_type,))
    except MalformedMessage:
        raise
    except Exception as exc:  # decoders raise what they like: ValueError, RecursionError, MemoryError, kombu's, yaml's
        why = bounded_text(str(exc.__cause__ or exc) or type(exc).__name__, 300)
        raise MalformedMessage(f"body: expected {content_type}, but {why}; got {shown(body)}") from None
    _check_depth(value, max_depth)
    return value


def check_accepted(content_type: Any, accept: Collection[str]) -> None:
    """Raises MalformedMessage unless ``accept`` has the content type or its serializer's name, and it is installed."""
    if not isinstance(content_type, str) or not content_type:
        raise MalformedMessage(f"content_type: expected one that [broker] accept names ({_names(accept)}), got none")
    name = registry.type_to_name.get(content_type)
    if content_type not in accept and name not in accept:
        raise MalformedMessage(
            f"content_type {bounded_text(content_type, 80)!r} is not accepted: [broker] accept names {_names(accept)}"
        )
    if name is None:
        raise MalformedMessage(f"content_type {bounded_text(content_type, 80)!r}: no decoder for it is installed")


def serializer_names() -> list[str]:
    """The names of the serializers that can encode here."""
    return sorted(name for name in registry.name_to_type if registry._encoders.get(name))


def _decode_json(body: bytes | str, encoding: str, max_depth: int) -> Any:
    text = body if isinstance(body, str) else bytes(body).decode(encoding)
    # "\\u00": the letters of __type__ may be escaped, too
    decode_text = _decode_typed_json if "__type__" in text or "\\u00" in text else _decode_plain_json
    value = decode_text(text)
    if text.count("[") + text.count("{") > max_depth:
        _check_depth(value, max_depth)
    return value


def _check_depth(value: Any, max_depth: int) -> None:
    """Level by level, each container once, since YAML's may contain themselves."""
    level, seen = [value], set[int]()
    for _ in range(max_depth):
        level = [child for container in level for child in _children(container) if _is_new(child, seen)]
        if not level:
            return
    raise MalformedMessage(f"body: expected at most {max_depth} levels of nesting, got more")


def _children(container: Any) -> Iterable[Any]:
    if isinstance(container, dict):
        return container.values()
    return container if isinstance(container, (list, tuple)) else ()


def _is_new(child: Any, seen: set[int]) -> bool:
    if not isinstance(child, (dict, list, tuple)) or id(child) in seen:
        return False
    seen.add(id(child))
    return True


def _other_encoding(content_encoding: Any) -> str:
    encoding = _ENCODINGS.get(content_encoding.lower()) if isinstance(content_encoding, str) else None
    if encoding is None:
        raise MalformedMessage(
            f"content_encoding: expected one of {', '.join(sorted(_ENCODINGS))}, got {shown(content_encoding)}"
        )
    return encoding


def _names(accept: Collection[str]) -> str:
    return ", ".join(sorted(accept)) or "none"
