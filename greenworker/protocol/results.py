"""Celery's result documents: the states, the document of one result, and the exceptions in it.

Formats: celery.backends.base of Celery 5.7 (``_get_result_meta``, ``prepare_exception``, ``exception_to_python``).
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import ModuleType
from typing import Any

from greenworker import errors
from greenworker.errors import EncodeError, MalformedMessage, ResultsError
from greenworker.protocol import fields
from greenworker.protocol.display import bounded_repr, shown
from greenworker.protocol.message import TaskMessage
from greenworker.protocol.serialization import encode

PENDING = "PENDING"
RECEIVED = "RECEIVED"
STARTED = "STARTED"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
RETRY = "RETRY"
REVOKED = "REVOKED"
REJECTED = "REJECTED"
IGNORED = "IGNORED"

READY_STATES = frozenset({SUCCESS, FAILURE, REVOKED})
EXCEPTION_STATES = frozenset({RETRY, FAILURE, REVOKED})

_MAX_NAME_CHARS = 200

#: Exceptions that Celery's clients know under names of their own: ours, and where theirs stand.
_CELERYS_NAMES: Mapping[type[BaseException], tuple[str, str]] = {
    errors.SoftTimeLimitExceeded: ("billiard.exceptions", "SoftTimeLimitExceeded"),
    errors.TimeLimitExceeded: ("billiard.exceptions", "TimeLimitExceeded"),
    errors.TaskRevokedError: ("celery.exceptions", "TaskRevokedError"),
    errors.NotRegistered: ("celery.exceptions", "NotRegistered"),
    errors.MaxRetriesExceededError: ("celery.exceptions", "MaxRetriesExceededError"),
    errors.Ignore: ("celery.exceptions", "Ignore"),
    errors.Reject: ("celery.exceptions", "Reject"),
    errors.Retry: ("celery.exceptions", "Retry"),
}
_OURS = {names: cls for cls, names in _CELERYS_NAMES.items()}


@dataclass(slots=True)
class ResultMeta:
    """A task's result as it is stored. ``result`` is the value or, in a state of EXCEPTION_STATES, the exception.

    ``reply_to`` and ``correlation_id`` are no part of the document: they say where a store that sends results to those
    who wait for them (rpc) sends this one.
    """

    task_id: str
    status: str
    result: Any = None
    traceback: str | None = None
    children: list[Any] = field(default_factory=list)
    date_done: datetime | None = None  # aware UTC
    parent_id: str | None = None
    group_id: str | None = None
    reply_to: str | None = field(default=None, compare=False)
    correlation_id: str | None = field(default=None, compare=False)

    @classmethod
    def of(cls, message: TaskMessage, status: str, result: Any, **more: Any) -> ResultMeta:
        """The result of the task that ``message`` asked for; ``more``: other fields."""
        return cls(
            message.id,
            status,
            result,
            parent_id=message.parent_id,
            group_id=message.group,
            reply_to=message.reply_to,
            correlation_id=message.correlation_id,
            **more,
        )


def encode_meta(meta: ResultMeta, serializer: str = "json") -> dict[str, Any]:
    """Celery's document of ``meta``, its keys in Celery's order. date_done is None unless the state is a final one.

    ``serializer`` is the one that the document will be encoded with; what it cannot encode of an exception's arguments
    becomes text. A result that it cannot encode is found when the document is encoded.
    """
    result = meta.result
    if isinstance(result, BaseException) and meta.status in EXCEPTION_STATES:
        result = encode_exception(result, serializer)
    done = meta.date_done if meta.status in READY_STATES else None
    document = {
        "status": meta.status,
        "result": result,
        "traceback": meta.traceback,
        "children": meta.children,
        "date_done": None if done is None else done.isoformat(),
    }
    if meta.group_id:
        document["group_id"] = meta.group_id
    if meta.parent_id:
        document["parent_id"] = meta.parent_id
    document["task_id"] = meta.task_id
    return document


def decode_meta(document: Any) -> ResultMeta:
    """The result in a document that Celery or greenworker stored. Raises ResultsError for one that is none."""
    if not isinstance(document, Mapping):
        raise ResultsError(f"stored result: expected a mapping, got {shown(document)}")
    try:
        status = fields.required_text(document.get("status"), "status")
        return ResultMeta(
            task_id=fields.required_text(document.get("task_id"), "task_id"),
            status=status,
            result=_decode_result(document.get("result"), status),
            traceback=fields.text(document.get("traceback"), "traceback"),
            children=fields.sequence(document.get("children"), "children") or [],
            date_done=fields.point_in_time(document.get("date_done"), "date_done"),
            parent_id=fields.text(document.get("parent_id"), "parent_id"),
            group_id=fields.text(document.get("group_id"), "group_id"),
        )
    except MalformedMessage as exc:
        raise ResultsError(f"stored result {shown(document.get('task_id'))}: {exc.reason}") from None


def encode_exception(exc: BaseException, serializer: str = "json") -> dict[str, Any]:
    """``exc`` as Celery stores it: exc_type, exc_message (the list of its arguments), exc_module.

    Arguments that ``serializer`` cannot encode become text. Exceptions of ours that Celery has too get Celery's names,
    so that its clients can catch them.
    """
    cls = type(exc)
    module, name = _CELERYS_NAMES.get(cls, (cls.__module__, cls.__qualname__))
    return {
        "exc_type": name,
        "exc_message": [_encodable(arg, serializer) for arg in _arguments(exc)],
        "exc_module": module,
    }


def decode_exception(document: Mapping[str, Any]) -> Exception:
    """The exception in a stored document, of its own class where this process has it already, else of one by its name.

    Nothing is imported, and nothing but a subclass of Exception is ever made: a document is data from outside, it must
    not be able to call ``os.system``, nor to raise SystemExit or GreenletExit in whoever reads it. Never raises.
    """
    module, name = document.get("exc_module"), document.get("exc_type")
    cls = _find_class(module, name) or _stand_in(module, name)
    message = document.get("exc_message", "")
    args = message if isinstance(message, (list, tuple)) else (message,)
    try:
        return cls(*args)
    except Exception:  # its __init__ wants other arguments, or is anyone's code; as Celery does, tell what there was
        return Exception(f"{cls}({bounded_repr(message)})")


def _decode_result(result: Any, status: str) -> Any:
    if status in EXCEPTION_STATES and isinstance(result, Mapping) and "exc_type" in result:
        return decode_exception(result)
    return result


def _find_class(module: Any, name: Any) -> type[Exception] | None:
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    if (module, name) in _OURS:
        found: Any = _OURS[module, name]
    else:
        found = builtins if module == "builtins" else sys.modules.get(module)
        for part in name.split("."):
            # vars(), not getattr(): a module's __getattr__ may import
            found = vars(found).get(part) if isinstance(found, (ModuleType, type)) else None
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _stand_in(module: Any, name: Any) -> type[Exception]:
    """A class that carries the name of one that is not here."""
    return type(_identifier(name, "Exception"), (Exception,), {"__module__": _identifier(module, errors.__name__)})


def _identifier(name: Any, default: str) -> str:
    if not isinstance(name, str):
        return default
    return name[:_MAX_NAME_CHARS].encode("utf-8", "replace").decode().replace("\0", "?") or default


def _arguments(exc: BaseException) -> tuple[Any, ...]:
    try:
        return tuple(exc.args)
    except Exception:  # a subclass may have made args a property of its own
        return (bounded_repr(exc),)


def _encodable(arg: Any, serializer: str) -> Any:
    try:
        encode(arg, serializer)
    except EncodeError:
        return bounded_repr(arg)
    return arg
