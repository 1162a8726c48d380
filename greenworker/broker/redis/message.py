"""kombu's messages as they stand in Redis' lists and in ``unacked``, and what a restore makes of them."""

from __future__ import annotations

import binascii
import json
import logging
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from greenworker.broker.delivery import Envelope
from greenworker.broker.redis.keys import queue_key
from greenworker.broker.virtual import decode_message, encode_message, envelope_of, own_properties

logger = logging.getLogger(__name__)

MAX_PRIORITY = 9
_BASE64 = "base64"
_REDELIVERED = "redelivered"  # in the headers and in delivery_info, as kombu's restore puts it there


@dataclass(frozen=True, slots=True)
class Received:
    """A message off a list."""

    envelope: Envelope
    exchange: str
    routing_key: str
    redelivered: bool


def pack(envelope: Envelope, exchange: str, routing_key: str) -> str:
    """The text of a message, with a delivery tag of its own. Raises EncodeError."""
    body, encoding = envelope.body, envelope.content_encoding
    if isinstance(body, str):
        encoding = encoding or "utf-8"
        body = body.encode()
    properties = {
        "delivery_mode": 2,
        "priority": 0,
        **own_properties(envelope.properties),
        "body_encoding": _BASE64,
        "delivery_tag": str(uuid4()),
        "delivery_info": {"exchange": exchange, "routing_key": routing_key},
    }
    return encode_message(
        {
            "body": b64encode(body).decode(),
            "content-encoding": encoding,
            "content-type": envelope.content_type,
            "headers": dict(envelope.headers),
            "properties": properties,
        }
    )


def unpack(raw: bytes, queue: str) -> Received:
    """A message of ``queue``; one that cannot be read is all body, and goes the way of all malformed ones."""
    try:
        message = decode_message(raw.decode())
        body = _body(message)
        properties = message["properties"]
        origin = properties.get("delivery_info") or {}
        headers = message.get("headers") or {}
        redelivered = bool(
            headers.pop(_REDELIVERED, False) or origin.get(_REDELIVERED)
        )  # the next try is a new message
        received = envelope_of(message, body)
        return Received(received, origin.get("exchange") or "", origin.get("routing_key") or queue, redelivered)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        logger.error("A message of queue %s is none of kombu's: %r", queue, exc)
        return Received(Envelope(raw, None, None, {}, {}), "", queue, False)


def _body(message: Mapping[str, Any]) -> str | bytes:
    body: str | bytes = message["body"]
    if message["properties"].get("body_encoding") != _BASE64:
        return body
    try:
        return b64decode(body)
    except binascii.Error as exc:
        raise ValueError(f"its body is no base64: {exc}") from exc


def priority_of(properties: Mapping[str, Any]) -> int:
    """The priority as kombu's Redis transport reads it: 0 to 9, 0 is delivered first, and meant where there is none."""
    try:
        return max(0, min(int(properties["priority"]), MAX_PRIORITY))
    except (KeyError, TypeError, ValueError):
        return 0


# --- what stands in unacked: JSON of [message, exchange, routing key]


def entry_end(queue: str) -> str:
    """What stands behind a message that was taken off ``queue``: kombu's restore would put it back there, too."""
    return f', "", {json.dumps(queue)}]'


@dataclass(frozen=True, slots=True)
class Entry:
    """A message in ``unacked``, ready to go back."""

    message: str | bytes  # marked as redelivered, if it can be read at all
    exchange: str
    routing_key: str
    priority: int

    def list_of(self, queue: str) -> str:
        """The list of ``queue`` that it belongs on."""
        return queue_key(queue, self.priority)


def read_entry(raw: bytes) -> Entry:
    """Raises ValueError for what is neither kombu's nor ours."""
    try:
        parts: Any = decode_message(raw.decode())
        message, exchange, routing_key = parts
        _mark_redelivered(message)
        priority = priority_of(message["properties"])
        return Entry(encode_message(message), exchange or "", routing_key or "", priority)
    except (ValueError, KeyError, TypeError, AttributeError):
        return _read_foreign(raw)


def _mark_redelivered(message: Any) -> None:
    headers = message.setdefault("headers", {})
    if isinstance(headers, dict):
        headers[_REDELIVERED] = True
    message["properties"].setdefault("delivery_info", {})[_REDELIVERED] = True


def _read_foreign(raw: bytes) -> Entry:
    """A message that is none of kombu's, taken by us: what is behind it is ours, so its text goes back as it was."""
    start, cut, queue = raw.rpartition(b', "", "')
    if not (start.startswith(b"[") and cut and queue.endswith(b'"]')):
        raise ValueError("expected [message, exchange, routing key]")
    return Entry(start[1:], "", json.loads(b'"' + queue[:-1]), 0)
