"""The message that goes to a dead-letter queue: what came, unchanged, and in its headers why it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from greenworker.protocol.display import bounded_text
from greenworker.protocol.message import Envelope

REASON_HEADER = "x-greenworker-reason"
KIND_HEADER = "x-greenworker-kind"
QUEUE_HEADER = "x-greenworker-queue"
AT_HEADER = "x-greenworker-at"
HOSTNAME_HEADER = "x-greenworker-hostname"
CUT_HEADER = "x-greenworker-cut"  # names of headers that were too large to go with ours

MALFORMED, UNKNOWN, REJECTED = "malformed", "unknown", "rejected"

MAX_REASON_CHARS = 1000
MAX_HEADERS_CHARS = 64 * 1024  # RabbitMQ takes a header section only in one frame, 128 KiB by default

#: What would act on the message again instead of describing it, so each is kept under a name that nobody acts on:
#: the broker would drop it from the queue when its expiration is over, refuse another user's id (and close the
#: channel), and route copies to the queues in CC and BCC.
_DISARMED_PROPERTIES = ("expiration", "user_id")
_DISARMED_HEADERS = ("CC", "BCC")
_OF_THE_DELIVERY = ("delivery_tag", "delivery_info")


def dead_letter(
    envelope: Envelope, *, queue: str, reason: str, kind: str, at: datetime, hostname: str | None = None
) -> Envelope:
    """``envelope`` for the dead-letter queue: its body untouched, and headers that say why it is there.

    ``queue`` is where it came from, ``kind`` malformed, unknown, rejected or another word to sort by, ``at`` aware UTC.
    Always persistent, whatever it was before. Never raises, whatever its headers hold.
    """
    headers, disarmed = _small_enough(envelope.headers), {}
    for name in _DISARMED_HEADERS:
        if name in headers:
            disarmed[f"x-greenworker-was-{name.lower()}"] = headers.pop(name)
    properties = {name: value for name, value in envelope.properties.items() if name not in _OF_THE_DELIVERY}
    for name in _DISARMED_PROPERTIES:
        if properties.get(name) is not None:
            disarmed[f"x-greenworker-was-{name}"] = properties[name]
        properties.pop(name, None)
    ours = {
        REASON_HEADER: bounded_text(reason, MAX_REASON_CHARS),
        KIND_HEADER: kind,
        QUEUE_HEADER: queue,
        AT_HEADER: at.isoformat(),
        HOSTNAME_HEADER: hostname,
    }
    return replace(envelope, headers={**headers, **disarmed, **ours}, properties={**properties, "delivery_mode": 2})


def _small_enough(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers, without the largest ones where all of them and ours might not fit into one frame."""
    sizes = {name: len(str(name)) + _size(value) for name, value in headers.items()}
    total = sum(sizes.values())
    kept, cut = dict(headers), list[str]()
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if total <= MAX_HEADERS_CHARS:
            break
        total -= sizes[name]
        del kept[name]
        cut.append(bounded_text(str(name), 100))
    if cut:
        kept[CUT_HEADER] = bounded_text(", ".join(cut), MAX_REASON_CHARS)
    return kept


def _size(value: Any) -> int:
    try:
        return len(value) if isinstance(value, (str, bytes)) else len(repr(value))
    except (RecursionError, ValueError):  # nested too deep, or a number of thousands of digits
        return MAX_HEADERS_CHARS
