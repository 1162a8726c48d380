"""What decode_task refuses, and the reasons it gives; and what it puts up with."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import json
import lzma
import pickle
import zlib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from greenworker.errors import MalformedMessage
from greenworker.protocol.message import Envelope, Limits, TaskMessage, decode_task, encode_task

HEADERS: dict[str, Any] = {"task": "shop.add", "id": "a1"}
BODY = b'[[2, 2], {"z": 1}, {}]'
OLD: dict[str, Any] = {"task": "shop.add", "id": "a1", "args": [2, 2], "kwargs": {"z": 1}}


def envelope(body: Any = BODY, headers: Any = None, **changes: Any) -> Envelope:
    plain = Envelope(body, "application/json", "utf-8", {**HEADERS, **(headers or {})}, {})
    return dataclasses.replace(plain, **changes)


def old(**changes: Any) -> Envelope:
    return Envelope(json.dumps({**OLD, **changes}), "application/json", "utf-8", {}, {})


def reason(came: Envelope, accept: Any = ("json",), limits: Limits | None = None) -> str:
    with pytest.raises(MalformedMessage) as caught:
        decode_task(came, accept, limits or Limits())
    return caught.value.reason


def test_the_least_that_a_message_of_protocol_2_has() -> None:
    message = decode_task(envelope(), ("json",))
    assert message == TaskMessage(
        id="a1",
        task="shop.add",
        args=[2, 2],
        kwargs={"z": 1},
        content_type="application/json",
        content_encoding="utf-8",
    )


def test_the_least_that_a_message_of_protocol_1_has() -> None:
    message = decode_task(old(), ("json",))
    assert (message.id, message.task, message.args, message.kwargs) == ("a1", "shop.add", [2, 2], {"z": 1})
    assert message.protocol == 1
    without = decode_task(envelope(b'{"task": "t", "id": "i"}', headers={}), ("json",))
    assert (without.args, without.kwargs) == ([], {})


@pytest.mark.parametrize(
    ("came", "words"),
    [
        (envelope(b"no json"), ["body", "application/json", "Expecting value", "b'no json'"]),
        (envelope(b"\xff\xfe"), ["body", "application/json", "utf-8"]),
        (envelope(b""), ["body", "no byte"]),
        (envelope(b"[" * 100_000), ["body", "recursion"]),
        (envelope(b"[[], {}, " + b"[" * 300 + b"]" * 300 + b"]"), ["body", "200 levels"]),
        (envelope(b"[" + b"9" * 5000 + b"]"), ["body", "digits"]),
        (envelope(b'[[{"__type__": "secret", "__value__": 1}], {}, {}]'), ["body", "Unsupported type"]),
        (envelope(b'[[{"__type__": "datetime", "__value__": "x"}], {}, {}]'), ["body", "isoformat"]),
        (envelope(b'{"a": 1}', headers={}, content_type="text/plain"), ["text/plain", "[broker] accept", "json"]),
        (envelope(content_type=None), ["content_type", "[broker] accept", "json"]),
        (envelope(content_encoding="idna"), ["content_encoding", "utf-8", "'idna'"]),
        (envelope(content_encoding=3), ["content_encoding", "utf-8", "3"]),
        (dataclasses.replace(envelope(), headers={}), ["no task", "header 'task'", "protocol 1", "[[2, 2]"]),
        (envelope(b"[1, 2]"), ["body", "[args, kwargs, embed]", "[1, 2]", "list"]),
        (envelope(b"3"), ["body", "[args, kwargs, embed]", "3 (int)"]),
        (envelope(b'["22", {}, {}]'), ["args", "a list", "'22' (str)"]),
        (envelope(b'[{"a": 1}, {}, {}]'), ["args", "a list", "dict"]),
        (envelope(b"[[], [], {}]"), ["kwargs", "a mapping", "[] (list)"]),
        (envelope(b"[[], {}, []]"), ["embed", "a mapping", "[] (list)"]),
        (envelope(b'[[], {}, {"callbacks": "x"}]'), ["callbacks", "a list", "'x'"]),
        (envelope(b'[[], {}, {"chain": {}}]'), ["chain", "a list", "dict"]),
        (envelope(b'[[], {}, {"chord": []}]'), ["chord", "a mapping", "list"]),
        (envelope(headers={"id": None}), ["id", "not empty", "nothing"]),
        (envelope(headers={"id": ""}), ["id", "not empty", "''"]),
        (envelope(headers={"id": 17}), ["id", "text", "17 (int)"]),
        (envelope(headers={"id": "x" * 256}), ["id", "255 bytes", "xxx"]),
        (envelope(headers={"id": "\ud800"}), ["id", "surrogates"]),
        (envelope(headers={"id": b"\xff"}), ["id", "UTF-8"]),
        (envelope(headers={"task": ["x"]}), ["task", "text", "list"]),
        (envelope(headers={"eta": "tomorrow"}), ["eta", "ISO 8601", "'tomorrow'"]),
        (envelope(headers={"eta": ""}), ["eta", "ISO 8601", "''"]),
        (envelope(headers={"eta": 1_900_000_000}), ["eta", "text", "1900000000"]),
        (envelope(headers={"eta": "0001-01-01T00:00:00+10:00"}), ["eta", "ISO 8601"]),
        (envelope(headers={"expires": "2031-13-01"}), ["expires", "ISO 8601", "2031-13-01"]),
        (envelope(headers={"expires": 1_900_000_000}), ["expires", "text", "1900000000"]),
        (envelope(headers={"retries": "3"}), ["retries", "whole number", "'3'"]),
        (envelope(headers={"retries": True}), ["retries", "whole number", "True"]),
        (envelope(headers={"retries": 1.5}), ["retries", "whole number", "1.5"]),
        (envelope(headers={"retries": -1}), ["retries", "whole number", "-1"]),
        (envelope(headers={"retries": 2**31}), ["retries", "2147483647", "2147483648"]),
        (envelope(headers={"timelimit": 30}), ["timelimit", "[hard, soft]", "30"]),
        (envelope(headers={"timelimit": [1, 2, 3]}), ["timelimit", "[hard, soft]"]),
        (envelope(headers={"timelimit": ["1", None]}), ["timelimit", "seconds", "'1'"]),
        (envelope(headers={"timelimit": [None, -1]}), ["timelimit", "seconds", "-1"]),
        (envelope(headers={"timelimit": [float("nan"), None]}), ["timelimit", "seconds", "nan"]),
        (envelope(headers={"timelimit": [float("inf"), None]}), ["timelimit", "seconds", "inf"]),
        (envelope(headers={"timelimit": [10**400, None]}), ["timelimit", "seconds"]),
        (envelope(headers={"ignore_result": "yes"}), ["ignore_result", "true or false", "'yes'"]),
        (envelope(headers={"root_id": 3}), ["root_id", "text", "3"]),
        (envelope(headers={"stamps": 3}), ["stamps", "a mapping", "3"]),
        (envelope(properties={"priority": "high"}), ["priority", "whole number", "'high'"]),
        (envelope(properties={"reply_to": 5}), ["reply_to", "text", "5"]),
        (envelope(headers={"compression": "rot13"}), ["compression 'rot13'", "not available", "gzip"]),
        (envelope(headers={"compression": 3}), ["compression", "a name", "3"]),
        (envelope("text", headers={"compression": "gzip"}), ["compression", "bytes", "'text'"]),
        (envelope(headers={"compression": "gzip"}), ["compression application/x-gzip", "not in this format"]),
        (envelope(zlib.compress(BODY)[:-4], {"compression": "zlib"}), ["application/x-gzip", "ends too early"]),
        (envelope(bz2.compress(BODY)[:-4], {"compression": "bzip2"}), ["application/x-bz2", "ends too early"]),
        (envelope(lzma.compress(BODY)[:-4], {"compression": "xz"}), ["application/x-lzma", "ends too early"]),
        (envelope(zlib.compress(BODY) + b"x", {"compression": "zlib"}), ["application/x-gzip", "after its end"]),
        (envelope(BODY, {"compression": "zstd"}), ["application/zstd"]),
        (old(id=None), ["id", "not empty"]),
        (old(args="22"), ["args", "a list", "'22'"]),
        (old(kwargs=[1]), ["kwargs", "a mapping"]),
        (old(expires=60), ["expires", "seconds since 1970", "60"]),
        (old(expires=1e300), ["expires", "year 10000"]),
        (old(retries=None, eta="x"), ["eta", "ISO 8601"]),
    ],
)
def test_what_is_wrong_is_said(came: Envelope, words: list[str]) -> None:
    said = reason(came)
    for word in words:
        assert word in said
    assert len(said) < 1000


def test_a_kwargs_key_that_is_no_text() -> None:
    came = envelope(b"- []\n- {3: x}\n- {}\n", content_type="application/x-yaml")
    said = reason(came, ("yaml",))
    assert "kwargs" in said
    assert "a key 3 (int)" in said


def test_what_was_huge_is_short_in_the_reason() -> None:
    assert len(reason(envelope(b'"' + b"x" * 1_000_000 + b'"'))) < 300
    assert len(reason(envelope(headers={"eta": "x" * 1_000_000}))) < 300
    assert len(reason(envelope(content_type="x" * 1_000_000))) < 300
    assert len(reason(envelope(headers={"compression": "x" * 1_000_000}))) < 400


def test_a_body_above_the_bound_is_not_looked_at() -> None:
    said = reason(envelope(b"no json" * 100), limits=Limits(max_body_bytes=100))
    assert "at most 100 bytes" in said
    assert "[worker] max_body_bytes" in said
    assert "700" in said
    exactly = BODY + b" " * (100 - len(BODY))
    assert decode_task(envelope(exactly), ("json",), Limits(max_body_bytes=100)).args == [2, 2]


@pytest.mark.parametrize(
    ("name", "pack"), [("gzip", zlib.compress), ("bzip2", bz2.compress), ("xz", lzma.compress), ("zstd", None)]
)
def test_a_decompression_bomb_is_not_unpacked(name: str, pack: Any) -> None:
    if pack is None:
        pack = pytest.importorskip("zstandard").ZstdCompressor().compress
    bomb = pack(b" " * 50_000_000)
    said = reason(envelope(bomb, {"compression": name}), limits=Limits(max_body_bytes=1_000_000))
    assert "at most 1000000 bytes" in said
    assert "unpacks to more" in said
    exactly = pack(BODY + b" " * (1_000_000 - len(BODY)))
    assert decode_task(envelope(exactly, {"compression": name}), ("json",), Limits(1_000_000)).args == [2, 2]


def test_real_gzip_is_unpacked_too() -> None:
    """kombu's gzip is zlib's format; a client in another language may take the name at its word."""
    assert decode_task(envelope(gzip.compress(BODY), {"compression": b"gzip"}), ("json",)).args == [2, 2]


def test_too_many_headers() -> None:
    said = reason(envelope(headers={str(n): n for n in range(50)}), limits=Limits(max_headers=20))
    assert "headers: expected at most 20, got 52" in said


def test_depth_is_bounded_by_the_limit() -> None:
    nested = b"[" * 9 + b"]" * 9
    body = b"[[" + nested + b"], {}, {}]"  # 11 levels
    assert decode_task(envelope(body), ("json",), Limits(max_depth=11)).kwargs == {}
    assert "10 levels" in reason(envelope(body), limits=Limits(max_depth=10))


def test_pickle_is_decoded_only_where_it_is_named() -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("it was unpickled",))

    body = pickle.dumps(([Bomb()], {}, {}))
    came = envelope(body, content_type="application/x-python-serialize", content_encoding="binary")
    said = reason(came, ("json", "yaml", "msgpack"))
    assert "application/x-python-serialize" in said
    assert "[broker] accept names json, msgpack, yaml" in said
    harmless = dataclasses.replace(came, body=pickle.dumps(([2, 2], {}, {})))
    for accept in (("pickle",), {"json", "application/x-python-serialize"}):
        assert decode_task(harmless, accept).args == [2, 2]


def test_accept_takes_names_and_content_types() -> None:
    for accept in (["json"], {"application/json"}, ("yaml", "json")):
        assert decode_task(envelope(), accept).args == [2, 2]
    assert "accept" in reason(envelope(), ("yaml",))
    assert "accept" in reason(envelope(), ())
    said = reason(envelope(content_type="application/x-none"), ("application/x-none",))
    assert "no decoder" in said


def test_headers_may_be_bytes() -> None:
    headers = {"task": b"shop.add", "id": b"a1", "eta": b"2031-01-01T00:00:00", "origin": "gr\xfcn".encode()}
    message = decode_task(envelope(headers=headers), ("json",))
    assert (message.task, message.id, message.origin) == ("shop.add", "a1", "gr\xfcn")
    assert message.eta == datetime(2031, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2031-01-02T03:04:05", datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2031-01-02T03:04:05.000678+00:00", datetime(2031, 1, 2, 3, 4, 5, 678, tzinfo=UTC)),
        ("2031-01-02T03:04:05Z", datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2031-01-02T03:04:05+05:30", datetime(2031, 1, 1, 21, 34, 5, tzinfo=UTC)),
        (datetime(2031, 1, 2), datetime(2031, 1, 2, tzinfo=UTC)),
        (datetime(2031, 1, 2, tzinfo=timezone(timedelta(hours=1))), datetime(2031, 1, 1, 23, tzinfo=UTC)),
        (None, None),
    ],
)
@pytest.mark.parametrize("name", ["eta", "expires"])
def test_times(name: str, value: Any, moment: datetime | None) -> None:
    found = getattr(decode_task(envelope(headers={name: value}), ("json",)), name)
    assert found == moment
    assert found is None or found.utcoffset() == timedelta(0)


def test_expires_of_protocol_1_may_be_a_unix_time() -> None:
    assert decode_task(old(expires=1_900_000_000), ("json",)).expires == datetime(2030, 3, 17, 17, 46, 40, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "hard", "soft"),
    [
        ([30, 20.5], 30, 20.5),
        ((None, 5), None, 5),
        ([None, None], None, None),
        ([0, 0], None, None),
        (None, None, None),
    ],
)
def test_time_limits_are_hard_then_soft(value: Any, hard: Any, soft: Any) -> None:
    message = decode_task(envelope(headers={"timelimit": value}), ("json",))
    assert (message.time_limit, message.soft_time_limit) == (hard, soft)


def test_ignore_result_may_be_left_to_the_task() -> None:
    assert decode_task(envelope(), ("json",)).ignore_result is None
    assert decode_task(envelope(headers={"ignore_result": False}), ("json",)).ignore_result is False


def test_only_the_senders_own_headers_are_passed_on() -> None:
    headers = {"tenant": "a", "x-death": [{}], "CC": ["other"], "stamps": {}, "lang": "py", "shadow": None}
    message = decode_task(envelope(headers=headers), ("json",))
    assert message.headers == {"tenant": "a"}
    assert encode_task(message).headers.keys().isdisjoint({"x-death", "CC"})


def test_escaped_type_markers_are_seen() -> None:
    """Any letter of a key may be escaped in JSON; kombu's decoder sees through that, so does ours."""
    body = b'[[{"\\u005f_type\\u005F_": "uuid", "__value__": {"hex": "00000000000000000000000000000005"}}], {}, {}]'
    assert str(decode_task(envelope(body), ("json",)).args[0]) == "00000000-0000-0000-0000-000000000005"


def test_other_encodings_of_json() -> None:
    text = '[["\xe9"], {}, {}]'
    for name, encoding in (("utf-16", "utf-16"), ("ISO-8859-1", "latin-1"), ("binary", "utf-8"), (None, "utf-8")):
        came = envelope(text.encode(encoding), content_encoding=name)
        assert decode_task(came, ("json",)).args == ["\xe9"]
    assert decode_task(envelope(text), ("json",)).args == ["\xe9"]  # some transports hand out text
    assert decode_task(envelope(memoryview(text.encode())), ("json",)).args == ["\xe9"]


def test_yaml_that_contains_itself_ends() -> None:
    came = envelope(b"- &a [*a, *a]\n- {}\n- {}\n", content_type="application/x-yaml")
    assert len(decode_task(came, ("yaml",)).args) == 2


def test_yaml_makes_no_objects() -> None:
    came = envelope(b"- [!!python/object/apply:os.getpid []]\n- {}\n- {}\n", content_type="application/x-yaml")
    assert "application/x-yaml" in reason(came, ("yaml",))
