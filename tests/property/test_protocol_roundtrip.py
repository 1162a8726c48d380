"""What is encoded comes back; what is garbage is a MalformedMessage, never another exception."""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kombu.utils.json import dumps as kombu_dumps
from kombu.utils.json import loads as kombu_loads

from greenworker.errors import EncodeError, MalformedMessage
from greenworker.protocol.dead_letter import dead_letter
from greenworker.protocol.display import bounded_repr
from greenworker.protocol.message import PROTOCOL_HEADERS, Envelope, TaskMessage, decode_task, encode_task
from greenworker.protocol.results import ResultMeta, decode_exception, decode_meta, encode_meta
from greenworker.protocol.serialization import decode, encode

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAME = TEXT.filter(bool)
WHOLE = st.integers(0, 2**31 - 1)
MOMENTS = st.datetimes(datetime(1980, 1, 1), datetime(9000, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))
PLAIN = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)
TYPED = st.recursive(
    PLAIN | MOMENTS | st.dates() | st.times() | st.decimals(allow_nan=False) | st.uuids() | st.binary(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
SIGNATURES = st.none() | st.lists(st.dictionaries(TEXT, VALUES, max_size=3), max_size=2)
SECONDS = st.none() | st.floats(0.001, 1e6)

MESSAGES = st.builds(
    TaskMessage,
    id=st.uuids().map(str),
    task=NAME,
    args=st.lists(VALUES, max_size=4),
    kwargs=st.dictionaries(TEXT, VALUES, max_size=4),
    retries=WHOLE,
    eta=st.none() | MOMENTS,
    expires=st.none() | MOMENTS,
    time_limit=SECONDS,
    soft_time_limit=SECONDS,
    root_id=NAME,
    parent_id=st.none() | TEXT,
    group=st.none() | NAME,
    group_index=st.none() | WHOLE,
    origin=st.none() | TEXT,
    shadow=st.none() | TEXT,
    ignore_result=st.none() | st.booleans(),
    reply_to=st.none() | NAME,
    callbacks=SIGNATURES,
    errbacks=SIGNATURES,
    chain=SIGNATURES,
    chord=st.none() | st.dictionaries(TEXT, VALUES, max_size=3),
    argsrepr=TEXT,
    kwargsrepr=TEXT,
    headers=st.dictionaries(TEXT.map(lambda name: f"own-{name}"), VALUES, max_size=3),
    priority=st.integers(0, 9),
)


@settings(deadline=None)
@given(MESSAGES, st.sampled_from(["json", "yaml", "msgpack", "pickle"]), st.sampled_from([None, "gzip", "bz2", "xz"]))
def test_protocol_2_comes_back(message: TaskMessage, serializer: str, compression: str | None) -> None:
    try:
        envelope = encode_task(message, serializer=serializer, compression=compression)
    except EncodeError:
        assert serializer == "yaml"  # it has no way to write some control characters
        return
    decoded = decode_task(envelope, (serializer,))
    message.correlation_id = message.id
    message.content_type, message.content_encoding = envelope.content_type, envelope.content_encoding
    if serializer == "yaml":  # its plain scalars may come back as another type (1e3 as text)
        assert (decoded.id, decoded.task, decoded.headers) == (message.id, message.task, message.headers)
    else:
        assert decoded == message


@settings(deadline=None)
@given(MESSAGES)
def test_protocol_1_comes_back(message: TaskMessage) -> None:
    decoded = decode_task(encode_task(message, protocol=1), ("json",))
    names = "id task args kwargs retries eta expires time_limit soft_time_limit group group_index reply_to callbacks"
    for name in [*names.split(), "errbacks", "chord", "headers", "priority"]:
        assert getattr(decoded, name) == getattr(message, name), name


@settings(deadline=None)
@given(TYPED)
def test_json_is_kombus_both_ways(value: Any) -> None:
    body, content_type, content_encoding = encode(value, "json")
    assert body == kombu_dumps(value).encode()
    ours = decode(body, content_type, content_encoding, ("json",))
    assert repr(ours) == repr(kombu_loads(body))


GARBAGE = st.recursive(
    PLAIN | MOMENTS | st.binary(max_size=20) | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = sorted(PROTOCOL_HEADERS | {"args", "kwargs", "taskset", "callbacks", "errbacks", "chain", "chord"})
MARKED = st.dictionaries(st.sampled_from(["__type__", "__value__", "a"]), VALUES | st.sampled_from(["uuid", "date"]))
BODIES = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=50),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.tuples(VALUES | MARKED, VALUES, VALUES).map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(FIELDS), VALUES | MARKED).map(lambda value: json.dumps(value).encode()),
    VALUES.map(lambda value: zlib.compress(json.dumps(value).encode())),
)
CONTENT_TYPES = st.sampled_from(
    [
        "application/json",
        "application/x-yaml",
        "application/x-msgpack",
        "application/data",
        "text/plain",
        "",
        None,
        3,
        [],
    ]
)
ENCODINGS = st.sampled_from(["utf-8", "UTF-8", "binary", "us-ascii", "utf-16", "hex", "idna", "", None, 7, {}])
COMPRESSIONS = st.sampled_from(["gzip", "bzip2", "xz", "zstd", "application/x-gzip", b"gzip", b"\xff", "none"])


ENVELOPES = st.builds(
    lambda content, headers, properties, packed: Envelope(
        *content, headers if packed is None else {**headers, "compression": packed}, properties
    ),
    st.tuples(BODIES, CONTENT_TYPES, ENCODINGS),
    st.dictionaries(st.sampled_from(FIELDS), GARBAGE),
    st.dictionaries(st.sampled_from(["reply_to", "correlation_id", "priority", "expiration"]), GARBAGE),
    st.none() | COMPRESSIONS | GARBAGE,
)


def malformed_or_good(envelope: Envelope) -> None:
    try:
        message = decode_task(envelope, ("json", "yaml", "msgpack"))
    except MalformedMessage as exc:
        assert 0 < len(exc.reason) < 2000
        at = datetime(2031, 1, 1, tzinfo=UTC)
        assert dead_letter(envelope, queue="q", reason=exc.reason, kind="malformed", at=at).body == envelope.body
    else:
        encode_task(message, serializer="pickle")


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(ENVELOPES)
def test_garbage_is_malformed_and_nothing_else(envelope: Envelope) -> None:
    malformed_or_good(envelope)


@pytest.mark.full
@pytest.mark.timeout(900)
@settings(deadline=None, max_examples=5000, suppress_health_check=[HealthCheck.too_slow])
@given(ENVELOPES)
def test_much_garbage_is_malformed_and_nothing_else(envelope: Envelope) -> None:
    malformed_or_good(envelope)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(FIELDS), GARBAGE, st.sampled_from([1, 2]))
def test_one_field_of_garbage_in_a_good_message(name: str, value: Any, protocol: int) -> None:
    """A whole message of garbage fails at its first field; here each field is reached."""
    if protocol == 2:
        envelope = Envelope(b"[[], {}, {}]", "application/json", "utf-8", {"task": "t", "id": "i", name: value}, {})
    else:
        body, content_type, encoding = encode({"task": "t", "id": "i", name: value}, "pickle")
        envelope = Envelope(body, content_type, encoding, {}, {})
    try:
        message = decode_task(envelope, ("json", "pickle"))
    except MalformedMessage as exc:
        assert exc.reason
    else:
        assert (type(message.id), type(message.task), type(message.args)) == (str, str, list)
        message.id.encode()


@given(GARBAGE, st.integers(1, 200))
def test_bounded_repr_is_bounded(value: Any, max_chars: int) -> None:
    assert len(bounded_repr(value, max_chars)) <= max_chars + 20


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["exc_type", "exc_module", "exc_message"]), GARBAGE | st.sampled_from(["os", "system"])
    )
)
def test_decoded_exceptions_are_exceptions(document: dict[str, Any]) -> None:
    assert isinstance(decode_exception(document), Exception)


@settings(deadline=None)
@given(
    st.sampled_from(["SUCCESS", "FAILURE", "RETRY", "STARTED", "PROGRESS"]),
    VALUES,
    st.none() | TEXT,
    st.none() | MOMENTS,
    st.none() | NAME,
)
def test_results_come_back(
    status: str, result: Any, traceback: str | None, done: datetime | None, group: str | None
) -> None:
    meta = ResultMeta("t", status, result, traceback, [], done, None, group)
    body, content_type, encoding = encode(encode_meta(meta), "json")
    if isinstance(result, dict) and "exc_type" in result:
        pytest.skip("a value that looks like an exception's document")
    if status not in ("SUCCESS", "FAILURE"):
        meta.date_done = None
    assert decode_meta(decode(body, content_type, encoding, ("json",))) == meta
