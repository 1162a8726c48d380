"""Signals: what a project connects its own functions to, to be told what happens. Names and arguments are Celery's.

    @task_failure.connect
    def told(sender, task_id, exception, **kwargs): ...

Receivers are held by the Signal objects below, and those are module-level state: the one place in the package that has
any, besides the registry of shared tasks. They are connected while modules are imported, before there is an App, and
must hold for every App of the process; that is what they are for.

Where they run: ``task_prerun``, ``task_postrun``, ``task_success``, ``task_failure``, ``task_retry``, ``task_revoked``
and ``task_unknown`` in the task's slot, with its context; they may wait. ``task_received`` and ``task_rejected`` in the
consumer's loop: one that waits there keeps all other messages waiting. ``before_task_publish`` and
``after_task_publish`` where the message is published: the caller of ``delay``, or for retries and links a thread of the
worker's own. The worker's signals in the thread that starts and stops it.

Whoever sends asks first whether anybody listens (``if task_prerun.receivers:``), so that nothing is built for nobody.
"""

from __future__ import annotations

import inspect
import logging
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, overload

__all__ = [
    "Signal",
    "after_task_publish",
    "before_task_publish",
    "task_failure",
    "task_postrun",
    "task_prerun",
    "task_received",
    "task_rejected",
    "task_retry",
    "task_revoked",
    "task_success",
    "task_unknown",
    "worker_init",
    "worker_ready",
    "worker_shutdown",
    "worker_shutting_down",
]

logger = logging.getLogger(__name__)

Receiver = Callable[..., Any]
Connected = TypeVar("Connected", bound=Receiver)
_Key = tuple[Hashable, Hashable]


class Signal:
    """Calls the functions that were connected to it, in the order in which they were.

    ``receivers`` is replaced as a whole under the lock, so that ``send`` reads it without one; it is empty, and so
    false, when nobody listens.
    """

    def __init__(self, name: str, *arguments: str) -> None:
        """``arguments`` are what ``send`` is given by name, besides ``sender``."""
        self.name = name
        self.arguments = arguments
        self.receivers: tuple[tuple[_Key, Callable[[], Receiver | None]], ...] = ()
        self._lock = threading.RLock()  # taken again by the end of a receiver that is collected while we hold it

    def __repr__(self) -> str:
        return f"<Signal {self.name}({', '.join(self.arguments)})>"

    @overload
    def connect(
        self, receiver: Connected, sender: Any = None, weak: bool = True, dispatch_uid: Hashable = None
    ) -> Connected: ...

    @overload
    def connect(
        self, receiver: None = None, sender: Any = None, weak: bool = True, dispatch_uid: Hashable = None
    ) -> Callable[[Connected], Connected]: ...

    def connect(
        self, receiver: Receiver | None = None, sender: Any = None, weak: bool = True, dispatch_uid: Hashable = None
    ) -> Any:
        """Have ``receiver(signal=..., sender=..., **arguments)`` called; returns it. Without one: a decorator.

        ``sender``: for this sender alone. ``weak``: the connection does not keep the receiver alive, so that a method
        goes with its object, and a function that nobody else holds goes at once. ``dispatch_uid`` (else the receiver
        itself): who is connected twice is called once. Raises ValueError for one that takes no ``**kwargs``, since
        arguments may be added. Celery's ``retry=True`` is not here: it calls a receiver that raises over and over, in
        the middle of a task, without end.
        """
        if receiver is None:
            return lambda given: self.connect(given, sender, weak, dispatch_uid)
        if not _takes_any_keyword(receiver):
            raise ValueError(f"{self.name}: a receiver must accept **kwargs, and {receiver!r} does not")
        key = _key(receiver, sender, dispatch_uid)
        found = _weakly(receiver, lambda gone: self._remove(key, gone)) if weak else lambda: receiver
        with self._lock:
            alive = tuple(entry for entry in self.receivers if entry[1]() is not None)
            if all(other != key for other, _ in alive):
                self.receivers = (*alive, (key, found))
        return receiver

    def disconnect(
        self, receiver: Receiver | None = None, sender: Any = None, weak: bool | None = None, dispatch_uid: Any = None
    ) -> bool:
        """Take it out again; returns whether it was connected. ``weak`` is ignored, as Celery does."""
        return self._remove(_key(receiver, sender, dispatch_uid))

    def has_listeners(self, sender: Any = None) -> bool:
        """Whether anybody would be called for ``sender``."""
        return any(True for _ in self._live(sender))

    def send(self, sender: Any, **arguments: Any) -> list[tuple[Receiver, Any]]:
        """Call all; returns what each returned, or the exception that it raised, which is logged."""
        return [(receiver, self._call(receiver, sender, arguments)) for receiver in self._live(sender)]

    def _call(self, receiver: Receiver, sender: Any, arguments: dict[str, Any]) -> Any:
        try:
            return receiver(signal=self, sender=sender, **arguments)
        except Exception as exc:  # the fault of one receiver is not that of the task, nor of the other receivers
            logger.exception("%r, connected to the signal %s, raised", receiver, self.name)
            return exc

    def _live(self, sender: Any) -> list[Receiver]:
        wanted = (_identity(None), _identity(sender))
        found = [get() for (_, for_sender), get in self.receivers if for_sender in wanted]
        return [receiver for receiver in found if receiver is not None]

    def _remove(self, key: _Key, gone: Any = None) -> bool:
        """``gone``: only if it is this reference that stands there, and not a receiver that has the key since."""
        with self._lock:
            kept = tuple(
                entry for entry in self.receivers if entry[0] != key or (gone is not None and entry[1] is not gone)
            )
            removed, self.receivers = len(kept) < len(self.receivers), kept
        return removed


def _key(receiver: Receiver | None, sender: Any, dispatch_uid: Hashable) -> _Key:
    return dispatch_uid or _identity(receiver), _identity(sender)


def _identity(target: Any) -> Hashable:
    """Bound methods are made anew at every access: object and function tell them apart. Names are compared as such."""
    if isinstance(target, (str, bytes)):
        return target
    if hasattr(target, "__func__"):
        return id(getattr(target, "__self__", None)), id(target.__func__)
    return id(target)


def _weakly(receiver: Receiver, when_gone: Callable[[Any], object]) -> Callable[[], Receiver | None]:
    if inspect.ismethod(receiver):
        return weakref.WeakMethod(receiver, when_gone)
    return weakref.ref(receiver, when_gone)


def _takes_any_keyword(receiver: Receiver) -> bool:
    try:
        parameters = inspect.signature(receiver).parameters.values()
    except (TypeError, ValueError):  # written in C: calling it will tell
        return True
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


# Sender: the task's name. ``body`` is (args, kwargs, embed); what a receiver of ``before`` changes in body, headers and
# properties is sent.
before_task_publish = Signal(
    "before_task_publish", "body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"
)
after_task_publish = Signal("after_task_publish", "body", "exchange", "routing_key", "headers")

# Sender: the consumer.
task_received = Signal("task_received", "request")
task_unknown = Signal("task_unknown", "message", "exc", "name", "id")
task_rejected = Signal("task_rejected", "message", "exc")

# Sender: the task.
task_prerun = Signal("task_prerun", "task_id", "task", "args", "kwargs")
task_postrun = Signal("task_postrun", "task_id", "task", "args", "kwargs", "retval", "state")
task_success = Signal("task_success", "result", "runtime")
task_failure = Signal("task_failure", "task_id", "exception", "args", "kwargs", "traceback", "einfo")
task_retry = Signal("task_retry", "request", "reason", "einfo")
task_revoked = Signal("task_revoked", "request", "terminated", "signum", "expired")

# Sender: the worker; for ``worker_ready`` the consumer, for ``worker_shutting_down`` the node's name.
worker_init = Signal("worker_init")
worker_ready = Signal("worker_ready")
worker_shutting_down = Signal("worker_shutting_down", "sig", "how", "exitcode")
worker_shutdown = Signal("worker_shutdown")
