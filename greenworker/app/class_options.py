"""Options of a task that stand in the body of its class: ``max_retries = 5``."""

from __future__ import annotations

import inspect
from typing import Any

from greenworker.app.options import FromSettings, TaskOptions

NAMES = tuple(TaskOptions.__annotations__)


def class_options(cls: type[Any], root: type[Any]) -> dict[str, Any]:
    """The options that ``cls``, its mixins and its bases below ``root`` give, the nearest one's word counting."""
    given: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base in root.__mro__:
            continue
        in_body = base.__dict__
        given |= in_body.get("class_options", {})  # a task class: its descriptors stand where its options stood
        given |= {name: in_body[name] for name in NAMES if name in in_body and not _is_descriptor(in_body[name])}
    return given


def restore_descriptors(cls: type[Any], root: type[Any]) -> None:
    """Let options be assigned on tasks of ``cls`` as on any other task, though ``cls`` gave some in its body."""
    for name, value in vars(root).items():
        if isinstance(value, FromSettings) and inspect.getattr_static(cls, name) is not value:
            setattr(cls, name, value)


def _is_descriptor(value: Any) -> bool:
    """Options are plain values: what computes one (a property) is left to compute it."""
    return isinstance(value, (FromSettings, property))
