"""The small parts of the Redis path, without a Redis: addresses, keys, messages, bindings, errors, prefixes."""

from __future__ import annotations

import json
import sys

import pytest
from kombu.transport.redis import Channel
from kombu.transport.virtual.exchange import TopicExchange
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError

from greenworker.broker.connection import ConnectionOptions, open_connection
from greenworker.broker.delivery import Envelope
from greenworker.broker.open import SourceOptions, make_source
from greenworker.broker.publisher import PublisherOptions, make_publisher
from greenworker.broker.redis.address import Address, Login, parse_address
from greenworker.broker.redis.bell import _prefixes
from greenworker.broker.redis.keys import (
    PRIORITY_STEPS,
    SEPARATOR,
    UNACKED,
    UNACKED_INDEX,
    bindings_key,
    number_of,
    permanent_bindings_key,
    queue_key,
    tag_of,
)
from greenworker.broker.redis.kombu import kombu_redis_url
from greenworker.broker.redis.link import code_of, meaning_of
from greenworker.broker.redis.message import Received, entry_end, pack, priority_of, read_entry, unpack
from greenworker.broker.redis.routing import matching_queues, topic_pattern
from greenworker.broker.redis.session import News, Session, Wanted
from greenworker.errors import BrokerError
from greenworker.green.native import NativeWaiter
from greenworker.settings.urls import BROKER_URLS


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", Address((("localhost", 6379),))),
        ("redis://h", Address((("h", 6379),))),
        ("redis://[::1]:1/2", Address((("::1", 1),), 2)),
        ("REDIS://:p%40w@h:1/2", Address((("h", 1),), 2, Login(None, "p@w"))),
        ("redis://u:a/b:c@h", Address((("h", 6379),), 0, Login("u", "a/b:c"))),
        ("redis://h?db=3", Address((("h", 6379),), 3)),
        ("rediss://u:p@h/1", Address((("h", 6379),), 1, Login("u", "p"), tls=True)),
        ("redis+socket:///run/r%20s?virtual_host=4", Address((), 4, path="/run/r s")),
        ("redis+socket://u:p@/run/r", Address((), 0, Login("u", "p"), path="/run/r")),
        (
            "sentinel://:p@a;b:1/2?master_name=m&sentinel_password=s%26&tls=yes",
            Address(
                (("a", 26379), ("b", 1)),
                2,
                Login(None, "p"),
                tls=True,
                master_name="m",
                sentinel_login=Login(None, "s&"),
            ),
        ),
    ],
)
def test_addresses(url: str, address: Address) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("redis://h/secret", "number of a database"),
        ("redis://secret:word", "host:port"),
        ("redis+socket://secret", "absolute path"),
        ("sentinel://secret/0", "master_name"),
    ],
)
def test_addresses_that_are_none_are_told_without_what_they_hold(url: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong) as caught:
        parse_address(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("sentinel://a:1;sentinel://b:2/0?master_name=m", ("sentinel://a:1;b:2/0?master_name=m",)),
        ("sentinel://u:p@a/0;sentinel://u:p@b;sentinel://c/1?master_name=m", ("sentinel://u:p@a;b;c/1?master_name=m",)),
        ("sentinel://a;b/0?master_name=m redis://x", ("sentinel://a;b/0?master_name=m", "redis://x")),
        ("sentinel://a/0?master_name=m;sentinel://b/0?master_name=n", None),
        ("rediss://u:p@h:1/0", None),
        ("redis+socket:///run/r.sock?virtual_host=1", None),
    ],
)
def test_settings_take_redis_urls_and_join_the_sentinels_of_one(text: str, urls: tuple[str, ...] | None) -> None:
    assert BROKER_URLS.parse(text) == (urls or tuple(text.split(";")))


@pytest.mark.parametrize(
    ("url", "kombus"),
    [
        ("redis://u:p%40@h/3", "redis://u:p%40@h:6379/3"),
        ("redis+socket:///run/r", "redis+socket:///run/r?virtual_host=0"),
        ("sentinel://:p@a;b:1/2?master_name=m", "sentinel://:p@a:26379/2;sentinel://:p@b:1/2"),
    ],
)
def test_kombus_urls(url: str, kombus: str) -> None:
    assert kombu_redis_url(parse_address(url)) == kombus


def test_keys_are_kombus() -> None:
    assert list(PRIORITY_STEPS) == Channel.priority_steps
    assert (Channel.sep, Channel.unacked_key, Channel.unacked_index_key) == (SEPARATOR, UNACKED, UNACKED_INDEX)
    assert bindings_key("x") == Channel.keyprefix_queue % "x"
    assert permanent_bindings_key("x") == Channel.keyprefix_binding_permanent % "x"
    for priority in range(10):
        assert queue_key("q", priority) == Channel._q_for_pri(_KombusChannel(), "q", priority)


class _KombusChannel:
    """Enough of kombu's channel to ask it for a key."""

    sep = Channel.sep
    priority_steps = Channel.priority_steps

    def priority(self, n: int) -> int:
        return int(Channel.priority(self, n))


def test_tags_are_told_apart_and_in_order() -> None:
    tags = [tag_of("s", number) for number in (11, 9, 100)]
    assert sorted(tags, key=number_of) == [tag_of("s", number) for number in (9, 11, 100)]


@pytest.mark.parametrize("body", ["[[], {}, {}]", b"\x00\xff", ""])
def test_a_message_comes_out_as_it_went_in(body: str | bytes) -> None:
    sent = Envelope(body, "application/json", "utf-8", {"a": [], "b": {}}, {"correlation_id": "1", "delivery_mode": 1})
    text = pack(sent, "exchange", "key")
    received = unpack(text.encode(), "q")
    raw = body.encode() if isinstance(body, str) else body
    expected = Envelope(raw, "application/json", "utf-8", sent.headers, {**sent.properties, "priority": 0})
    assert received == Received(expected, "exchange", "key", False)
    message = json.loads(text)
    assert message["properties"]["delivery_info"] == {"exchange": "exchange", "routing_key": "key"}
    assert json.loads(pack(sent, "", "q"))["properties"]["delivery_tag"] != message["properties"]["delivery_tag"]


def test_a_restored_message_says_so_once() -> None:
    """The next try of a task that was redelivered is a message of its own."""
    text = pack(Envelope(b"[]", "application/json", "utf-8", {"task": "t"}, {"priority": 7}), "", "q")
    entry = read_entry(f"[{text}{entry_end('q')}".encode())
    assert (entry.exchange, entry.routing_key, entry.list_of("q")) == ("", "q", queue_key("q", 6))
    marked = json.loads(entry.message)
    assert marked["headers"]["redelivered"] is marked["properties"]["delivery_info"]["redelivered"] is True
    received = unpack(str(entry.message).encode(), "q")
    assert received.redelivered
    assert received.envelope.headers == {"task": "t"}


@pytest.mark.parametrize("raw", [b"\xff", b"[1", b'"', b"{}", b'{"properties": 1}', b""])
@pytest.mark.parametrize("queue", ["q", 'a "quoted", "", "queue"', "schl\u00fcssel"])
def test_what_is_no_message_goes_back_as_it_was(raw: bytes, queue: str) -> None:
    entry = read_entry(b"[" + raw + entry_end(queue).encode())
    assert entry.message == raw
    assert entry.routing_key == queue


@pytest.mark.parametrize("raw", [b"", b"[]", b"nothing", b'[{}, "x"]'])
def test_what_is_no_entry_is_told(raw: bytes) -> None:
    with pytest.raises(ValueError):
        read_entry(raw)


@pytest.mark.parametrize(
    ("properties", "priority"), [({}, 0), ({"priority": 5}, 5), ({"priority": 99}, 9), ({"priority": "x"}, 0)]
)
def test_priorities(properties: dict[str, object], priority: int) -> None:
    assert priority_of(properties) == priority


def test_bindings_match_as_kombus() -> None:
    topic = TopicExchange(None)
    patterns = ["orders.*", "#.new", "a.#", "x"]
    bindings = [SEPARATOR.join((key, topic.key_to_pattern(key), key)).encode() for key in patterns]
    table = [tuple(binding.decode().split(SEPARATOR)) for binding in bindings]
    for key in ("orders.new", "orders", "a.b.c", "x", ""):
        assert set(matching_queues(bindings, key)) == topic.lookup(table, "e", key, None)
    assert topic_pattern("a.#") == topic.key_to_pattern("a.#")
    direct = SEPARATOR.join(("key", "", "q")).encode()
    assert matching_queues([direct], "key") == ["q"]
    assert matching_queues([direct], "other") == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OutOfMemoryError("command not allowed"), "OOM"),
        (ReadOnlyError("x"), "READONLY"),
        (NoPermissionError("x"), "NOPERM"),
        (ResponseError("MISCONF Redis is configured"), "MISCONF"),
        (ResponseError("Error running script (call to f_1): @user_script:1: -OOM command not allowed"), "OOM"),
        (ResponseError("ERR wrong"), ""),
        (ResponseError("wrong number of arguments"), ""),
        (ResponseError("SESSIONOVER its lease ran out"), "SESSIONOVER"),
    ],
)
def test_codes_of_errors(error: ResponseError, code: str) -> None:
    assert code_of(error) == code
    assert str(error) in meaning_of(error)


def test_prefixes_never_overlap() -> None:
    assert _prefixes(["q", "queue", "q2", "a", "ab", "b"]) == ["a", "b", "q"]
    assert _prefixes([]) == []


def test_numbers_of_takes_never_overlap() -> None:
    session = Session(60.0, 3_600.0)
    first = session.take([Wanted("q", 10)], 10, strict=False)
    second = session.take([Wanted("q", 10)], 10, strict=False)
    result = second.read([[0, b"m"], [3], b""])
    assert (first.first_number, second.first_number) == (0, 10)
    assert [(taken.tag, taken.queue, taken.raw) for taken in result.taken] == [(tag_of(session.id, 10), "q", b"m")]
    assert result.credits == {"q": 3}


def test_news() -> None:
    assert News.of([1, 0, 1, -1]) == News(True, False, True, None)
    assert News.of([0, 1, 0, 1500]) == News(False, True, False, 1.5)


def test_a_missing_package_is_told_by_whoever_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)  # as if it were not installed
    url, connecting = "redis://h", ConnectionOptions()
    told = r"package that is not installed: redis \(pip install greenworker\[redis\]\)"
    with pytest.raises(BrokerError, match=told):
        open_connection(url, connecting)
    with pytest.raises(BrokerError, match=told):
        make_source(url, connecting, lambda delivery: None, NativeWaiter(), SourceOptions())
    with pytest.raises(BrokerError, match=told):
        make_publisher([url], connecting, PublisherOptions())
