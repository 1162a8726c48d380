"""What stands in a row of the queue file: kombu's virtual message, its body kept apart.

``head`` is the JSON of kombu's message dictionary without ``body`` (content-type, content-encoding, headers,
properties); the body is its own column, TEXT or BLOB as it came, so that it is neither escaped into JSON nor base64.
The batch path and the kombu transport write and read the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from greenworker.broker.virtual import encode_message, own_properties
from greenworker.protocol.message import Envelope

MAX_PRIORITY = 255


def pack_envelope(envelope: Envelope, exchange: str, routing_key: str) -> str:
    """The head of ``envelope``. Raises EncodeError for headers or properties that JSON cannot hold."""
    origin = {"exchange": exchange, "routing_key": routing_key}
    properties = {**own_properties(envelope.properties), "delivery_info": origin}
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
    return encode_message({key: value for key, value in message.items() if key != "body"})


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
