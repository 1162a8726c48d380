"""Task messages of a real Celery client and ours, both ways, through kombu's memory transport."""

from __future__ import annotations

import dataclasses
import importlib.util
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import celery
import kombu
import kombu.compression
import pytest
from celery.worker.request import Request
from celery.worker.strategy import hybrid_to_proto2, proto1_to_proto2

from greenworker.protocol.message import Envelope, TaskMessage, decode_task, encode_task

ACCEPT = ("json", "yaml", "msgpack")
ETA = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
EXPIRES = datetime(2032, 5, 6, 7, 8, 9, tzinfo=UTC)
SIGNATURE = {
    "task": "shop.log",
    "args": [1],
    "kwargs": {},
    "options": {},
    "subtask_type": None,
    "immutable": False,
}


def add(*args: Any, **kwargs: Any) -> None:
    """The task of these tests; it is never run."""


@pytest.fixture
def app() -> Iterator[celery.Celery]:
    app = celery.Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(task_default_queue=f"queue-{uuid.uuid4()}", accept_content=list(ACCEPT))
    app.task(add, name="shop.add")
    app.finalize()
    yield app
    app.close()


def take(app: celery.Celery) -> kombu.Message:
    """The one message on the app's queue."""
    with app.connection_for_read() as connection, connection.channel() as channel:
        message = app.amqp.queues[app.conf.task_default_queue](channel).get(no_ack=True)
        assert message is not None
        return message


def raw(message: kombu.Message) -> Envelope:
    """What kombu took off the queue, before kombu unpacked it."""
    headers = dict(message.headers)
    body = message.body
    if compression := message.properties.get("compression") or headers.get("compression"):
        body = kombu.compression.compress(body, compression)[0]
    return Envelope(body, message.content_type, message.content_encoding, headers, message.properties)


def sent_by_celery(app: celery.Celery, args: Any = (), kwargs: Any = None, **options: Any) -> Envelope:
    app.send_task("shop.add", args, kwargs, **options)
    return raw(take(app))


def received_by_kombu(app: celery.Celery, envelope: Envelope) -> kombu.Message:
    """``envelope`` published as it is, and taken off the queue again."""
    with app.connection_for_write() as connection:
        queue = app.amqp.queues[app.conf.task_default_queue]
        properties = {name: value for name, value in envelope.properties.items() if name != "expiration"}
        connection.Producer().publish(
            envelope.body,
            routing_key=queue.name,
            declare=[queue],
            content_type=envelope.content_type,
            content_encoding=envelope.content_encoding,
            headers=dict(envelope.headers),
            **properties,
        )
    message = take(app)
    message.accept = {"application/json", "application/x-yaml", "application/x-msgpack"}
    return message


CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # name: (what Celery's send_task is given beside args and kwargs, what our message has)
    "plain": ({}, {}),
    "args": ({"args": [1, "two", None, 3.5, [1, {"a": []}]]}, {"args": [1, "two", None, 3.5, [1, {"a": []}]]}),
    "kwargs": ({"kwargs": {"z": 1, "deep": {"a": [True]}}}, {"kwargs": {"z": 1, "deep": {"a": [True]}}}),
    "unicode": (
        {"args": ["grün \N{SNOWMAN} \N{PILE OF POO}"], "kwargs": {"größe": "é"}},
        {"args": ["grün \N{SNOWMAN} \N{PILE OF POO}"], "kwargs": {"größe": "é"}},
    ),
    "eta": ({"eta": ETA}, {"eta": ETA}),
    "expires": ({"expires": EXPIRES}, {"expires": EXPIRES}),
    "priority": ({"priority": 7}, {"priority": 7}),
    "headers": ({"headers": {"tenant": "a", "n": 3}}, {"headers": {"tenant": "a", "n": 3}}),
    "limits": ({"time_limit": 30, "soft_time_limit": 20.5}, {"time_limit": 30, "soft_time_limit": 20.5}),
    "retries": ({"retries": 2}, {"retries": 2}),
    "family": (
        {"group_id": "g", "group_index": 4, "root_id": "r", "parent_id": "p"},
        {"group": "g", "group_index": 4, "root_id": "r", "parent_id": "p"},
    ),
    "ignore_result": ({"ignore_result": True}, {"ignore_result": True}),
    "keep_result": ({"ignore_result": False}, {"ignore_result": False}),
    "shadow": ({"shadow": "other.name"}, {"shadow": "other.name"}),
    "links": (
        {"link": celery.Signature(SIGNATURE), "link_error": celery.Signature(SIGNATURE)},
        {"callbacks": [SIGNATURE], "errbacks": [SIGNATURE]},
    ),
    "chain": ({"chain": [SIGNATURE]}, {"chain": [SIGNATURE]}),
    "reply_to": ({"reply_to": "me"}, {"reply_to": "me"}),
}
ONLY_PROTOCOL_2 = {"family", "ignore_result", "keep_result", "shadow", "chain"}
NO_YAML = {"links"}  # Celery's signatures are a subclass of dict, which its own yaml cannot encode
COMBINATIONS = [
    (call, serializer, protocol)
    for call in CALLS
    for serializer in ("json", "yaml", "msgpack")
    for protocol in (2, 1)
    if not (protocol == 1 and call in ONLY_PROTOCOL_2) and not (serializer == "yaml" and call in NO_YAML)
]


def ours(app: celery.Celery, sent: Envelope, protocol: int, **fields: Any) -> TaskMessage:
    """The message that we make for the same call; ids and origin are Celery's, for they are random."""
    if protocol == 2:
        random = {"id": sent.headers["id"], "origin": sent.headers["origin"]}
    else:
        random = {"id": sent.properties["correlation_id"]}
    random["reply_to"] = sent.properties["reply_to"]
    return TaskMessage(**{"task": "shop.add", "ignore_result": None, **random, **fields})


def comparable(envelope: Envelope, app: celery.Celery) -> dict[str, Any]:
    message = received_by_kombu(app, envelope)
    properties = {
        name: message.properties[name] for name in ("correlation_id", "reply_to", "priority", "delivery_mode")
    }
    return {
        "body": message.decode(),
        "content": (message.content_type, message.content_encoding),
        "headers": dict(message.headers),
        "properties": properties,
    }


@pytest.mark.parametrize(("call", "serializer", "protocol"), COMBINATIONS)
def test_what_celery_sends_and_what_we_send_are_equal(
    app: celery.Celery, call: str, serializer: str, protocol: int
) -> None:
    app.conf.task_protocol = protocol
    options, fields = CALLS[call]
    sent = sent_by_celery(app, **options, serializer=serializer)
    message = ours(app, sent, protocol, **fields)
    assert comparable(encode_task(message, serializer=serializer, protocol=protocol), app) == comparable(sent, app)


@pytest.mark.parametrize(("call", "serializer", "protocol"), COMBINATIONS)
def test_we_decode_what_celery_sends(app: celery.Celery, call: str, serializer: str, protocol: int) -> None:
    app.conf.task_protocol = protocol
    options, fields = CALLS[call]
    sent = sent_by_celery(app, **options, serializer=serializer)
    decoded = decode_task(sent, ACCEPT)
    expected = ours(app, sent, protocol, **fields)
    for name in [*fields, "id", "task", "args", "kwargs", "retries", "eta", "expires", "origin", "ignore_result"]:
        value = getattr(expected, name)
        assert getattr(decoded, name) == (list(value) if name == "args" else value), name
    assert decoded.protocol == protocol
    assert decoded.correlation_id == decoded.id
    assert decoded.headers == fields.get("headers", {})


def test_countdown_and_expires_in_seconds(app: celery.Celery) -> None:
    before = datetime.now(UTC)
    decoded = decode_task(sent_by_celery(app, countdown=60, expires=120), ACCEPT)
    after = datetime.now(UTC)
    assert decoded.eta is not None
    assert decoded.expires is not None
    assert before <= decoded.eta - timedelta(seconds=60) <= after
    assert before <= decoded.expires - timedelta(seconds=120) <= after


@pytest.mark.parametrize("protocol", [2, 1])
def test_a_time_in_another_zone_is_the_same_moment(app: celery.Celery, protocol: int) -> None:
    app.conf.update(task_protocol=protocol, timezone="Asia/Kolkata")
    decoded = decode_task(sent_by_celery(app, eta=ETA, expires=EXPIRES), ACCEPT)
    assert (decoded.eta, decoded.expires) == (ETA, EXPIRES)
    assert decoded.eta.utcoffset() == timedelta(0)  # type: ignore[union-attr]


def test_values_that_plain_json_does_not_have(app: celery.Celery) -> None:
    values = [ETA, ETA.date(), ETA.time(), Decimal("1.10"), uuid.UUID(int=5), b"bytes", b"\xff\x00"]
    sent = sent_by_celery(app, args=values, kwargs={"nested": {"list": values}})
    decoded = decode_task(sent, ACCEPT)
    assert decoded.args == values
    assert decoded.kwargs == {"nested": {"list": values}}
    ours_decoded = received_by_kombu(app, encode_task(decoded)).decode()
    assert ours_decoded[:2] == [values, {"nested": {"list": values}}]


def celerys_compressions() -> list[str]:
    return sorted({*kombu.compression._aliases, *kombu.compression._encoders} - {"brotli", "application/x-brotli"})


@pytest.mark.parametrize("compression", celerys_compressions())
@pytest.mark.parametrize("protocol", [2, 1])
def test_compression_both_ways(app: celery.Celery, compression: str, protocol: int) -> None:
    app.conf.task_protocol = protocol
    text = "long " * 1000
    sent = sent_by_celery(app, args=[text], compression=compression)
    assert len(sent.body) < 1000, "not compressed"
    decoded = decode_task(sent, ACCEPT)
    assert decoded.args == [text]
    encoded = encode_task(decoded, compression=compression, protocol=protocol)
    assert encoded.headers["compression"] == sent.headers["compression"]
    assert received_by_kombu(app, encoded).decode() == received_by_kombu(app, sent).decode()


@pytest.mark.skipif(not importlib.util.find_spec("zstandard"), reason="zstd needs the package zstandard")
def test_zstd_as_kombu_names_it() -> None:
    """kombu has it with another package alone (backports.zstd); the format and the names are one."""
    message = TaskMessage(id="a", task="shop.add", args=["long " * 1000])
    encoded = encode_task(message, compression="zstd")
    assert encoded.headers["compression"] == "application/zstd"
    assert encoded.body[:4] == b"\x28\xb5\x2f\xfd"  # RFC 8878, section 3.1.1
    assert decode_task(encoded, ACCEPT).args == ["long " * 1000]
    renamed = dataclasses.replace(encoded, headers={**encoded.headers, "compression": "zstandard"})
    assert decode_task(renamed, ACCEPT).args == ["long " * 1000]


FULL = TaskMessage(
    id="3d8b2b5e",
    task="shop.add",
    args=[1, "é", {"a": [None]}],
    kwargs={"z": 1},
    retries=3,
    eta=ETA,
    expires=EXPIRES,
    time_limit=30.0,
    soft_time_limit=20.0,
    root_id="root",
    parent_id="parent",
    group="group",
    group_index=1,
    origin="gen1@host",
    ignore_result=True,
    reply_to="replies",
    correlation_id="3d8b2b5e",
    callbacks=[SIGNATURE],
    errbacks=[SIGNATURE],
    chain=[SIGNATURE],
    chord=dict(SIGNATURE),
    headers={"tenant": "a"},
    priority=4,
    replaced_task_nesting=2,
    stamped_headers=["stamp"],
    stamps={"stamp": ["x"]},
)


@pytest.mark.parametrize("compression", [None, "gzip", "bzip2", "xz"])
@pytest.mark.parametrize("serializer", ["json", "yaml", "msgpack"])
def test_celerys_worker_reads_ours_of_protocol_2(app: celery.Celery, serializer: str, compression: str | None) -> None:
    message = received_by_kombu(app, encode_task(FULL, serializer=serializer, compression=compression))
    request = Request(message, app=app, hostname="here")
    assert (request.id, request.name, request.root_id, request.parent_id) == ("3d8b2b5e", "shop.add", "root", "parent")
    assert (request.args, request.kwargs) == (FULL.args, FULL.kwargs)
    assert (request.eta, request.expires) == (ETA, EXPIRES)
    assert request.time_limits == [30.0, 20.0]
    assert (request.reply_to, request.correlation_id) == ("replies", "3d8b2b5e")
    assert request.ignore_result is True
    assert request.replaced_task_nesting == 2
    assert (request.stamped_headers, request.stamps) == (["stamp"], {"stamp": ["x"]})
    assert request.delivery_info["priority"] == 4
    assert request.request_dict["group"] == "group"
    assert request.request_dict["tenant"] == "a"
    embed = message.payload[2]
    assert embed == {"callbacks": [SIGNATURE], "errbacks": [SIGNATURE], "chain": [SIGNATURE], "chord": SIGNATURE}
    assert request.argsrepr == "[1, 'é', {'a': [None]}]"
    assert request.kwargsrepr == "{'z': 1}"


def test_celerys_worker_reads_ours_of_protocol_1(app: celery.Celery) -> None:
    message = received_by_kombu(app, encode_task(FULL, protocol=1))
    assert "task" not in message.headers
    body, headers, decoded, utc = proto1_to_proto2(message, message.decode())
    request = Request(message, app=app, hostname="here", body=body, headers=headers, decoded=decoded, utc=utc)
    assert (request.id, request.name, request.request_dict["group"]) == ("3d8b2b5e", "shop.add", "group")
    assert (request.args, request.kwargs) == (FULL.args, FULL.kwargs)
    assert (request.eta, request.expires) == (ETA, EXPIRES)
    assert request.time_limits == [30.0, 20.0]
    assert request.request_dict["retries"] == 3
    assert body[2] == {"callbacks": [SIGNATURE], "errbacks": [SIGNATURE], "chord": SIGNATURE, "chain": None}


def test_a_hybrid_message_means_to_us_what_it_means_to_celery(app: celery.Celery) -> None:
    """Headers of protocol 2 over a body of protocol 1: the headers win."""
    old = encode_task(dataclasses.replace(FULL, retries=1, headers={}), protocol=1)
    headers = {"task": "shop.add", "id": "other", "retries": 2, "root_id": "root"}
    hybrid = dataclasses.replace(old, headers=headers)
    message = received_by_kombu(app, hybrid)
    body, celerys, _, _ = hybrid_to_proto2(message, message.decode())
    decoded = decode_task(hybrid, ACCEPT)
    assert (decoded.id, decoded.retries, decoded.root_id) == (celerys["id"], celerys["retries"], celerys["root_id"])
    assert (decoded.args, decoded.kwargs) == (body[0], body[1])
    assert decoded.callbacks == body[2]["callbacks"]


def test_a_message_goes_on_as_it_came(app: celery.Celery) -> None:
    """Decoding Celery's message and encoding it for a retry changes nothing but what the retry changes."""
    sent = sent_by_celery(app, [1], {"a": 2}, headers={"tenant": "a"}, shadow="s", time_limit=5, group_id="g")
    again = encode_task(dataclasses.replace(decode_task(sent, ACCEPT), retries=1))
    first, second = comparable(sent, app), comparable(again, app)
    assert second["headers"].pop("retries") == 1
    assert first["headers"].pop("retries") == 0
    assert second == first


def test_argsrepr_of_large_arguments_is_bounded_as_celerys(app: celery.Celery) -> None:
    args = [list(range(10_000)), "x" * 100_000]
    sent = sent_by_celery(app, args, kwargs={"k": args})
    encoded = encode_task(TaskMessage(id="a", task="shop.add", args=args, kwargs={"k": args}))
    for name in ("argsrepr", "kwargsrepr"):
        assert len(sent.headers[name]) < 1100
        assert len(encoded.headers[name]) < 1100
        assert encoded.headers[name][:1000] == sent.headers[name][:1000]
