"""What a message looks like in a dead-letter queue."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import amqp
import pytest

from greenworker.protocol import dead_letter as dead_letters
from greenworker.protocol.dead_letter import dead_letter
from greenworker.protocol.message import Envelope

AT = datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC)


def dead(headers: Any = None, properties: Any = None, reason: str = "why") -> Envelope:
    came = Envelope(b"\xff no json", "text/x", "binary", headers or {}, properties or {})
    return dead_letter(came, queue="celery", reason=reason, kind="malformed", at=AT, hostname="gw@here")


def test_the_message_is_unchanged_and_says_why_it_is_here() -> None:
    letter = dead({"task": "t", "n": [1]}, {"correlation_id": "a", "priority": 4, "delivery_mode": 1})
    assert (letter.body, letter.content_type, letter.content_encoding) == (b"\xff no json", "text/x", "binary")
    assert letter.headers == {
        "task": "t",
        "n": [1],
        "x-greenworker-reason": "why",
        "x-greenworker-kind": "malformed",
        "x-greenworker-queue": "celery",
        "x-greenworker-at": "2031-01-02T03:04:05+00:00",
        "x-greenworker-hostname": "gw@here",
    }
    assert letter.properties == {"correlation_id": "a", "priority": 4, "delivery_mode": 2}


def test_nothing_in_it_acts_on_the_broker_any_more() -> None:
    letter = dead({"CC": ["elsewhere"]}, {"expiration": "1000", "user_id": "guest", "delivery_tag": 4})
    assert letter.headers["x-greenworker-was-cc"] == ["elsewhere"]
    assert letter.headers["x-greenworker-was-expiration"] == "1000"
    assert letter.headers["x-greenworker-was-user_id"] == "guest"
    assert "CC" not in letter.headers
    assert letter.properties == {"delivery_mode": 2}


def test_the_reason_is_bounded() -> None:
    assert len(dead(reason="x" * 1_000_000).headers["x-greenworker-reason"]) == dead_letters.MAX_REASON_CHARS


@pytest.mark.parametrize("large", ["x" * 120_000, b"x" * 120_000, ["x" * 1000] * 120])
def test_its_headers_fit_into_a_frame(large: Any) -> None:
    """RabbitMQ refuses a header section above frame_max, 131,072 bytes by default, and closes the connection."""
    letter = dead({"task": "t", "large": large, "tenant": "a"}, reason="x" * 10_000)
    assert letter.headers["x-greenworker-cut"] == "large"
    assert (letter.headers["task"], letter.headers["tenant"]) == ("t", "a")
    wire = amqp.basic_message.Message(b"", application_headers=dict(letter.headers))
    assert len(wire._serialize_properties()) < 131_000


def test_many_headers_fit_into_a_frame() -> None:
    letter = dead({f"header-{number}": "x" * 50 for number in range(5000)})
    wire = amqp.basic_message.Message(b"", application_headers=dict(letter.headers))
    assert len(wire._serialize_properties()) < 131_000
    assert letter.headers["x-greenworker-reason"] == "why"
