"""A message's call alone, ``(args, kwargs, embed)``, out of its envelope and back into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kombu.serialization import registry

from greenworker.errors import EncodeError
from greenworker.protocol import compression as compressions
from greenworker.protocol.message import MAX_BODY_BYTES, Envelope
from greenworker.protocol.serialization import decode, encode


def decode_call(envelope: Envelope) -> tuple[Any, ...]:
    """The call in a message that this process encoded: whatever its serializer is, it is trusted."""
    body, packed = envelope.body, envelope.headers.get("compression")
    if packed:
        body = compressions.decompress(body, packed, MAX_BODY_BYTES)
    return tuple(decode(body, envelope.content_type, envelope.content_encoding, (str(envelope.content_type),)))


def with_call(envelope: Envelope, call: Sequence[Any]) -> Envelope:
    """``envelope`` with another call in it, encoded and compressed as the one before. Raises EncodeError."""
    serializer = registry.type_to_name.get(envelope.content_type)
    if serializer is None:
        raise EncodeError(f"no serializer writes {envelope.content_type}")
    body, _, _ = encode(call, serializer)
    packed = envelope.headers.get("compression")
    if packed:
        body, _ = compressions.compress(body, packed)
    return replace(envelope, body=body)
