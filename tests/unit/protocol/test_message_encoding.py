"""What encode_task writes, and what it refuses. Equality with Celery's own messages is tested under conformance."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from greenworker.errors import EncodeError
from greenworker.protocol.message import TaskMessage, decode_task, encode_task

MESSAGE = TaskMessage(id="a1", task="shop.add", args=[2, 2])


class Unjson:
    def __json__(self) -> Any:
        raise RuntimeError("on fire")


def test_properties_and_headers_of_protocol_2() -> None:
    envelope = encode_task(dataclasses.replace(MESSAGE, priority=3, reply_to="me"))
    assert envelope.properties == {"correlation_id": "a1", "reply_to": "me", "priority": 3, "delivery_mode": 2}
    assert envelope.content_type == "application/json"
    assert json.loads(envelope.body)[0] == [2, 2]
    assert envelope.headers["root_id"] == "a1"
    assert envelope.headers["argsrepr"] == "[2, 2]"


def test_a_retry_keeps_what_is_shown_of_its_arguments() -> None:
    message = dataclasses.replace(MESSAGE, argsrepr="(secret)", kwargsrepr="")
    assert encode_task(message).headers["argsrepr"] == "(secret)"
    assert encode_task(message).headers["kwargsrepr"] == ""


def test_the_senders_headers_cannot_change_the_protocols() -> None:
    message = dataclasses.replace(MESSAGE, headers={"retries": 9, "compression": "gzip", "tenant": "a"})
    envelope = encode_task(message)
    assert envelope.headers["retries"] == 0
    assert "compression" not in envelope.headers
    assert envelope.headers["tenant"] == "a"
    assert message.headers == {"retries": 9, "compression": "gzip", "tenant": "a"}


@pytest.mark.parametrize("protocol", [1, 2])
def test_a_message_that_was_decoded_is_sent_in_either_protocol(protocol: int) -> None:
    first = decode_task(encode_task(MESSAGE, protocol=3 - protocol), ("json",))
    second = decode_task(encode_task(first, protocol=protocol), ("json",))
    assert (second.args, second.protocol) == ([2, 2], protocol)


@pytest.mark.parametrize("serializer", ["json", "yaml", "msgpack", "pickle"])
def test_serializers(serializer: str) -> None:
    message = dataclasses.replace(MESSAGE, eta=datetime(2031, 1, 1, tzinfo=UTC))
    envelope = encode_task(message, serializer=serializer)
    assert isinstance(envelope.body, bytes)
    assert decode_task(envelope, (serializer,)).args == [2, 2]


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"args": [object()]}, {}, ["as json", "object is not JSON serializable", "<object"]),
        ({"kwargs": {"f": print}}, {}, ["as json", "not JSON serializable"]),
        ({"args": [Unjson()]}, {}, ["as json", "on fire"]),
        ({"args": [object()]}, {"serializer": "yaml"}, ["as yaml", "cannot represent"]),
        ({"args": [object()]}, {"serializer": "msgpack"}, ["as msgpack", "serialize"]),
        ({"args": [lambda: 1]}, {"serializer": "pickle"}, ["as pickle", "lambda"]),
        ({}, {"serializer": "cbor"}, ["'cbor'", "json", "msgpack", "yaml"]),
        ({}, {"compression": "rot13"}, ["'rot13'", "gzip", "zstd"]),
        ({}, {"protocol": 3}, ["protocol", "1 or 2", "3"]),
    ],
)
def test_what_cannot_be_encoded_is_said(changes: dict[str, Any], options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(EncodeError) as caught:
        encode_task(dataclasses.replace(MESSAGE, **changes), **options)
    for word in words:
        assert word in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_arguments_that_contain_themselves_cannot_be_encoded() -> None:
    args: list[Any] = []
    args.append(args)
    with pytest.raises(EncodeError, match="Circular reference"):
        encode_task(dataclasses.replace(MESSAGE, args=args))
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(EncodeError, match="recursion"):
        encode_task(dataclasses.replace(MESSAGE, args=[deep]))
