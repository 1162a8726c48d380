"""A task's message: its envelope on the broker, what it says, and the two faces of Celery's protocol between them.

The rules this file keeps: what is wrong with a message is a MalformedMessage with a reason that a person can act on,
never another exception; headers that are not the protocol's come through, so that a message that is sent again (a
retry, a parked ETA) loses nothing; and the work one message can cause is bounded.

Formats: Celery's task protocol 1 (one mapping in the body) and 2 (headers, and ``[args, kwargs, embed]`` in the body),
as celery.app.amqp of Celery 5.7 writes them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from greenworker.errors import EncodeError, MalformedMessage
from greenworker.protocol import compression as compressions
from greenworker.protocol import fields
from greenworker.protocol.display import bounded_repr, shown
from greenworker.protocol.serialization import MAX_DEPTH, decode, encode

MAX_BODY_BYTES = 128 * 1024 * 1024
MAX_HEADERS = 1000

#: Headers that the protocol itself uses; all others are the sender's own.
PROTOCOL_HEADERS = frozenset(
    {
        "lang",
        "task",
        "id",
        "shadow",
        "eta",
        "expires",
        "group",
        "group_index",
        "retries",
        "timelimit",
        "root_id",
        "parent_id",
        "argsrepr",
        "kwargsrepr",
        "origin",
        "ignore_result",
        "replaced_task_nesting",
        "stamped_headers",
        "stamps",
        "meth",
        "compression",
    }
)
#: Headers that brokers add or act on. Sent again they would say something untrue, and CC and BCC (RabbitMQ's
#: sender-selected distribution) would put a copy of each retry on other queues.
BROKER_HEADERS = frozenset(
    {
        "x-death",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-last-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
        "x-delivery-count",
        "x-acquired-count",
        "CC",
        "BCC",
    }
)
_NOT_THE_SENDERS = PROTOCOL_HEADERS | BROKER_HEADERS

_NO_TASK = (
    "expected the header 'task' with the task's name (protocol 2), or a body that is a mapping with 'task' (protocol 1)"
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message as a broker carries it. ``properties`` have kombu's names: correlation_id, reply_to, priority, ..."""

    body: bytes | str
    content_type: str | None
    content_encoding: str | None
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a message may have at most: bytes of its body (unpacked too), headers, levels of nesting in its body."""

    max_body_bytes: int = MAX_BODY_BYTES
    max_headers: int = MAX_HEADERS
    max_depth: int = MAX_DEPTH


DEFAULT_LIMITS = Limits()


@dataclass(slots=True)
class TaskMessage:
    """One call of a task. To send it again: ``encode_task(dataclasses.replace(message, retries=..., eta=...))``."""

    id: str
    task: str
    args: list[Any] | tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    retries: int = 0
    eta: datetime | None = None  # aware UTC, as is expires
    expires: datetime | None = None
    time_limit: float | None = None  # seconds; None: what the task or the settings say
    soft_time_limit: float | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    origin: str | None = None
    shadow: str | None = None
    ignore_result: bool | None = None  # None: what the task says
    reply_to: str | None = None
    correlation_id: str | None = None
    callbacks: list[Any] | None = None
    errbacks: list[Any] | None = None
    chain: list[Any] | None = None
    chord: dict[str, Any] | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    headers: dict[str, Any] = field(default_factory=dict)  # the sender's own, without the protocol's and the broker's
    priority: int | None = None
    replaced_task_nesting: int = 0
    stamped_headers: list[Any] | None = None
    stamps: dict[str, Any] | None = None
    protocol: int = 2
    content_type: str | None = None
    content_encoding: str | None = None

    @property
    def linked(self) -> bool:
        """Whether anything follows the task: links, errbacks, the rest of a chain, a chord."""
        return bool(self.callbacks or self.errbacks or self.chain or self.chord)


def decode_task(envelope: Envelope, accept: Collection[str], limits: Limits = DEFAULT_LIMITS) -> TaskMessage:
    """What ``envelope`` asks for, be it of protocol 1 or 2 or of the hybrid that Celery 3.1 sent for a while.

    ``accept`` has the serializers, by name or content type, that may be decoded. Raises MalformedMessage for everything
    that is wrong, and nothing else.
    """
    headers = envelope.headers
    if len(headers) > limits.max_headers:
        raise MalformedMessage(f"headers: expected at most {limits.max_headers}, got {len(headers)}")
    body = _decode_body(envelope, accept, limits)
    if "task" in headers:
        if isinstance(body, dict):
            return _read({**body, **headers}, _call_of_protocol_1(body), envelope, 1)
        if not isinstance(body, (list, tuple)) or len(body) != 3:
            raise fields.wrong("body", "[args, kwargs, embed]", body)
        return _read(headers, body, envelope, 2)
    if isinstance(body, dict) and "task" in body:
        return _read(body, _call_of_protocol_1(body), envelope, 1)
    raise MalformedMessage(f"no task: {_NO_TASK}; got headers {bounded_repr(list(headers), 120)}, body {shown(body)}")


def encode_task(
    message: TaskMessage, *, serializer: str = "json", compression: str | None = None, protocol: int = 2
) -> Envelope:
    """The envelope that carries ``message``, in Celery's task protocol 2 or 1; ``message.protocol`` is not looked at.

    Protocol 1 has no place for chain, root_id, parent_id, origin, ignore_result, shadow and stamps: they are left out.
    Unlike Celery's, a message that expires has no ``expiration`` property: with it the broker would drop the message
    silently, without it a worker sees it and stores the result REVOKED.
    Raises EncodeError for a value that cannot be encoded, and for a serializer or compression that is not there.
    """
    headers = _senders_own(message.headers)
    if protocol == 2:
        headers |= _headers_of_protocol_2(message)
        value: Any = (message.args, message.kwargs, _embed(message))
    elif protocol == 1:
        value = _body_of_protocol_1(message)
    else:
        raise EncodeError(f"task protocol: expected 1 or 2, got {shown(protocol)}")
    body, content_type, content_encoding = encode(value, serializer)
    if compression:
        body, headers["compression"] = compressions.compress(body, compression)
    properties = {
        "correlation_id": message.correlation_id or message.id,
        "reply_to": message.reply_to or "",
        "priority": message.priority or 0,
        "delivery_mode": 2,
    }
    return Envelope(body, content_type, content_encoding, headers, properties)


def _decode_body(envelope: Envelope, accept: Collection[str], limits: Limits) -> Any:
    body = envelope.body
    if len(body) > limits.max_body_bytes:
        raise MalformedMessage(
            f"body: expected at most {limits.max_body_bytes} bytes ([worker] max_body_bytes), got {len(body)}"
        )
    packed = envelope.headers.get("compression")
    if packed:
        body = compressions.decompress(body, packed, limits.max_body_bytes)
    return decode(body, envelope.content_type, envelope.content_encoding, accept, limits.max_depth)


def _senders_own(headers: Mapping[str, Any]) -> dict[str, Any]:
    if _NOT_THE_SENDERS.issuperset(headers):  # the ordinary message, at a third of the time
        return {}
    return {name: value for name, value in headers.items() if name not in _NOT_THE_SENDERS}


def _call_of_protocol_1(body: dict[str, Any]) -> tuple[Any, Any, Any]:
    return body.get("args"), body.get("kwargs"), body


def _read(found: Mapping[str, Any], call: Sequence[Any], envelope: Envelope, protocol: int) -> TaskMessage:
    """The message whose fields are in ``found`` (headers of protocol 2, body of protocol 1).

    ``call`` is ``[args, kwargs, embed]``.
    """
    args, kwargs, embed = call
    get, properties = found.get, envelope.properties
    embedded = fields.mapping(embed, "embed") or {}
    time_limit, soft_time_limit = fields.time_limits(get("timelimit"))
    read_expiry = fields.point_in_time if protocol == 2 else fields.expiry
    return TaskMessage(
        id=fields.required_text(get("id"), "id", fields.MAX_ID_BYTES),
        task=fields.required_text(get("task"), "task"),
        args=fields.sequence(args, "args") or [],
        kwargs=fields.keyword_arguments(kwargs),
        retries=fields.whole_number(get("retries"), "retries") or 0,
        eta=fields.point_in_time(get("eta"), "eta"),
        expires=read_expiry(get("expires"), "expires"),
        time_limit=time_limit,
        soft_time_limit=soft_time_limit,
        root_id=fields.text(get("root_id"), "root_id"),
        parent_id=fields.text(get("parent_id"), "parent_id"),
        group=fields.text(get("group") or get("taskset"), "group"),
        group_index=fields.whole_number(get("group_index"), "group_index"),
        origin=fields.text(get("origin"), "origin"),
        shadow=fields.text(get("shadow"), "shadow"),
        ignore_result=fields.flag(get("ignore_result"), "ignore_result"),
        reply_to=fields.text(properties.get("reply_to"), "reply_to") or None,
        correlation_id=fields.text(properties.get("correlation_id"), "correlation_id") or None,
        callbacks=fields.signatures(embedded.get("callbacks"), "callbacks"),
        errbacks=fields.signatures(embedded.get("errbacks"), "errbacks"),
        chain=fields.sequence(embedded.get("chain"), "chain"),
        chord=fields.mapping(embedded.get("chord"), "chord"),
        argsrepr=fields.text(get("argsrepr"), "argsrepr"),
        kwargsrepr=fields.text(get("kwargsrepr"), "kwargsrepr"),
        headers=_senders_own(envelope.headers),
        priority=fields.whole_number(properties.get("priority"), "priority"),
        replaced_task_nesting=fields.whole_number(get("replaced_task_nesting"), "replaced_task_nesting") or 0,
        stamped_headers=fields.sequence(get("stamped_headers"), "stamped_headers"),
        stamps=fields.mapping(get("stamps"), "stamps") or None,
        protocol=protocol,
        content_type=envelope.content_type,
        content_encoding=envelope.content_encoding,
    )


def _headers_of_protocol_2(message: TaskMessage) -> dict[str, Any]:
    argsrepr, kwargsrepr = message.argsrepr, message.kwargsrepr
    return {
        "lang": "py",
        "task": message.task,
        "id": message.id,
        "shadow": message.shadow,
        "eta": _iso(message.eta),
        "expires": _iso(message.expires),
        "group": message.group,
        "group_index": message.group_index,
        "retries": message.retries,
        "timelimit": [message.time_limit, message.soft_time_limit],
        "root_id": message.root_id or message.id,
        "parent_id": message.parent_id,
        "argsrepr": bounded_repr(message.args) if argsrepr is None else argsrepr,
        "kwargsrepr": bounded_repr(message.kwargs) if kwargsrepr is None else kwargsrepr,
        "origin": message.origin,
        "ignore_result": message.ignore_result,
        "replaced_task_nesting": message.replaced_task_nesting,
        "stamped_headers": message.stamped_headers,
        "stamps": message.stamps or {},
    }


def _embed(message: TaskMessage) -> dict[str, Any]:
    return {
        "callbacks": message.callbacks,
        "errbacks": message.errbacks,
        "chain": message.chain,
        "chord": message.chord,
    }


def _body_of_protocol_1(message: TaskMessage) -> dict[str, Any]:
    return {
        "task": message.task,
        "id": message.id,
        "args": message.args,
        "kwargs": message.kwargs,
        "group": message.group,
        "group_index": message.group_index,
        "retries": message.retries,
        "eta": _iso(message.eta),
        "expires": _iso(message.expires),
        "utc": True,
        "callbacks": message.callbacks,
        "errbacks": message.errbacks,
        "timelimit": (message.time_limit, message.soft_time_limit),
        "taskset": message.group,
        "chord": message.chord,
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
