"""PropertyDecoder reads what py-amqp's own decoder reads, whatever py-amqp can write; and garbage does no harm."""

from __future__ import annotations

import struct
from datetime import datetime
from decimal import Decimal
from typing import Any

import amqp
import pytest
from amqp.exceptions import FrameSyntaxError
from hypothesis import given
from hypothesis import strategies as st

from greenworker.broker.amqp.properties import PropertyDecoder

BASIC = 60

keys = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=200)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    texts,
    st.binary(max_size=200),
    st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=0, max_value=10_000_000),
    st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2100, 1, 1)),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)
short = texts.filter(lambda text: len(text.encode()) <= 255)
messages = st.fixed_dictionaries(
    {},
    optional={
        "content_type": short,
        "content_encoding": short,
        "application_headers": st.dictionaries(keys, values, max_size=12),
        "delivery_mode": st.integers(0, 255),
        "priority": st.integers(0, 255),
        "correlation_id": short,
        "reply_to": short,
        "expiration": short,
        "message_id": short,
        "timestamp": st.integers(0, 2**64 - 1),
        "type": short,
        "user_id": short,
        "app_id": short,
        "cluster_id": short,
    },
)


def stock_decoded(data: bytes) -> dict[str, Any]:
    message = amqp.Message()
    message._load_properties(BASIC, data, 0)
    return dict(message.properties)


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down: True is not 1, 1.0 is not 1."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@given(st.lists(messages, min_size=1, max_size=3))
def test_reads_what_py_amqp_reads(several: list[dict[str, Any]]) -> None:
    decoder = PropertyDecoder()
    for properties in several:
        data = amqp.Message("", **properties)._serialize_properties()
        assert same(decoder.decode(data), stock_decoded(data))


@given(messages, st.data())
def test_damaged_properties_raise_what_the_caller_expects(properties: dict[str, Any], data: st.DataObject) -> None:
    whole = bytearray(amqp.Message("", **properties)._serialize_properties())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(2, len(whole)))])
    try:
        PropertyDecoder().decode(damaged)
    except (struct.error, IndexError, ValueError, FrameSyntaxError):
        pass


def test_names_are_kept_within_a_bound() -> None:
    decoder = PropertyDecoder()
    for number in range(3_000):
        headers = {f"x-{number}": number}
        data = amqp.Message("", application_headers=headers)._serialize_properties()
        assert decoder.decode(data) == {"application_headers": headers}
    assert len(decoder._names) <= 1_000


def test_a_second_flags_word_goes_to_the_stock_decoder() -> None:
    data = struct.pack(">HH", 0x8001, 0) + b"\x04text"
    assert PropertyDecoder().decode(data) == stock_decoded(data)


@pytest.mark.parametrize("value", [Decimal("1.50"), [1, "two", [3.0]], datetime(2030, 1, 2, 3, 4, 5)])
def test_rare_kinds(value: object) -> None:
    data = amqp.Message("", application_headers={"x": value})._serialize_properties()
    assert same(PropertyDecoder().decode(data), stock_decoded(data))
