"""Task: a function, or a class with ``run``, that can be sent to a worker, and what its definition says of it."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, Unpack, cast

from greenworker.app.class_options import class_options, restore_descriptors
from greenworker.app.context import TaskContext, current_context, direct_call
from greenworker.app.hooks import TaskHooks
from greenworker.app.options import (
    FromSettings,
    MessageOptions,
    SendOptions,
    TaskOptions,
    check_limits,
    check_names,
    check_priority,
    exception_classes,
)
from greenworker.app.retries import inherited_arguments, retry_message
from greenworker.app.signature import Signature
from greenworker.errors import MaxRetriesExceededError, Retry
from greenworker.protocol.results import ResultMeta
from greenworker.settings.model import TaskSettings

if TYPE_CHECKING:
    from greenworker.app.app import App
    from greenworker.app.eager import EagerResult
    from greenworker.app.result import AsyncResult


class Task(TaskHooks):
    """A registered task. Calling it calls the function; ``delay`` and ``apply_async`` send it to a worker.

    Options are attributes and may be assigned to; those of the class FromSettings come from ``[task]`` in the settings
    unless the definition gave them. ``given`` holds what was given, and what was assigned.

    A subclass may override hooks (app/hooks.py), give options in its body, and override ``__call__``, which the worker
    then calls in place of ``run``. Its functions come from ``@app.task(base=...)`` or ``App(task_cls=...)``; one with a
    ``run`` of its own is a task when ``app.register_task`` gets an instance. ``__init__`` takes no arguments then, is
    called once a process, and need not call this one's.
    """

    app: App
    name: str = ""  # of a task that no app has yet
    run: Callable[..., Any]
    given: dict[str, Any]
    class_options: ClassVar[dict[str, Any]] = {}  # what the bodies of the class and its bases give
    has_own_call: ClassVar[bool] = False  # whoever runs a message calls ``__call__`` then, else ``run``

    acks_late = FromSettings[bool]()
    max_retries = FromSettings[int | None]()
    default_retry_delay = FromSettings[float]()
    ignore_result = FromSettings[bool]()
    track_started = FromSettings[bool]()
    time_limit = FromSettings[float | None]()
    soft_time_limit = FromSettings[float | None]()
    serializer = FromSettings[str]()
    compression = FromSettings[str | None]()

    MaxRetriesExceededError = MaxRetriesExceededError

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.class_options = class_options(cls, Task)
        restore_descriptors(cls, Task)
        cls.has_own_call = cls.__call__ is not Task.__call__

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        task = super().__new__(cls)
        task.given = {}  # here, so that an __init__ that calls no other may assign options
        return task

    def define(self, app: App, name: str, options: TaskOptions, function: Callable[..., Any] | None) -> None:
        """Make it a task of ``app``: of ``function``, or of its class's own ``run``.

        Raises TypeError for an unknown option, ValueError for options that contradict each other.
        """
        where = f"task {name}"
        check_names(where, options, TaskOptions.__annotations__)
        self.app = app
        self.name = name
        assigned = {key: value for key, value in vars(self).items() if key in TaskOptions.__annotations__}
        options = cast(TaskOptions, {**self.class_options, **options, **assigned, **self.given})
        self.given = {key: value for key, value in options.items() if key not in {"name", "bind"}}
        self.bind = bool(options.get("bind", False))
        self.queue: str | None = options.get("queue")
        self.priority: int | None = options.get("priority")
        self.expires: float | datetime | None = options.get("expires")
        self.rate_limit: str | float | None = options.get("rate_limit")
        self.throws = exception_classes(f"{where}, throws", options.get("throws", ()))
        self.autoretry_for = exception_classes(f"{where}, autoretry_for", options.get("autoretry_for", ()))
        self.dont_autoretry_for = exception_classes(
            f"{where}, dont_autoretry_for", options.get("dont_autoretry_for", ())
        )
        self.retry_kwargs: Mapping[str, Any] = dict(options.get("retry_kwargs", {}))
        self.retry_backoff: bool | float = options.get("retry_backoff", False)
        self.retry_backoff_max: float = options.get("retry_backoff_max", 600)
        self.retry_jitter: bool = options.get("retry_jitter", True)
        self.Request: type[Any] | str | None = options.get("Request")
        self.Strategy: Any = options.get("Strategy")
        check_priority(where, self.priority)
        check_limits(where, options.get("time_limit"), options.get("soft_time_limit"))
        if function is not None:
            functools.update_wrapper(self, function)
            self.run = types.MethodType(function, self) if self.bind else function
        self.is_coroutine = inspect.iscoroutinefunction(self.run)
        self.typing: bool = options.get("typing", True)
        self._signature = inspect.signature(self.run) if self.typing else None

    def __repr__(self) -> str:
        return f"<Task {self.name or type(self).__qualname__}>"

    @property
    def place(self) -> str:
        """``file:line`` of the function, where it has one."""
        code = getattr(inspect.unwrap(self.run), "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(self.run)

    @property
    def task_settings(self) -> TaskSettings:
        """The ``[task]`` section of the app's settings."""
        return self.app.settings.task

    @property
    def request(self) -> TaskContext:
        """The context of this task's run; one that says ``called_directly`` where no worker runs it."""
        current = current_context()
        if current is not None and current.task == self.name:
            return current
        return TaskContext(task=self.name, called_directly=True, caller=current)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, here and now. ``self.request.called_directly`` is True in it.

        Called by the ``__call__`` of a subclass, it runs the body that this one was called for.
        """
        if self.has_own_call and self._enters_own_run():
            return self.run(*args, **kwargs)
        if self.is_coroutine:
            return self._call_coroutine(args, kwargs)
        with direct_call(self.name, args, kwargs):
            return self.run(*args, **kwargs)

    def _enters_own_run(self) -> bool:
        current = current_context()
        if current is None or current.task != self.name or current.called_directly or current.entered:
            return False
        current.entered = True
        return True

    async def _call_coroutine(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        with direct_call(self.name, args, kwargs):
            return await self.run(*args, **kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult:
        """Send it with these arguments."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult:
        """Send it; returns when the broker has confirmed the message.

        Raises TypeError for arguments that the function does not take, EncodeError for ones that cannot be encoded,
        BrokerError or StateFolderError when the broker cannot be used.
        """
        if self._signature is not None:
            try:
                self._signature.bind(*(args or ()), **(kwargs or {}))
            except TypeError as exc:
                raise TypeError(f"task {self.name}: {exc}") from None
        return self.app.send_task(self.name, args, kwargs, **options)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Unpack[SendOptions],
    ) -> EagerResult:
        """Run it here and now, retries and links included (app/eager.py); returns its result.

        With ``throw`` (by default ``[task] eager_propagates``) a task that fails raises here. Options as for
        ``apply_async``.
        """
        return self.app.apply(self, args, kwargs, options, throw=throw)

    def bulk(self, args: Iterable[Sequence[Any]], **options: Unpack[SendOptions]) -> list[AsyncResult]:
        """Send it once for each of ``args``, a list or tuple of arguments each, all with ``options``: see App.bulk."""
        return self.app.bulk((self, each, None, options) for each in args)

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """A signature with these arguments."""
        return Signature(self, args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """A signature with these arguments and no others: it ignores the result of a task that it is linked to."""
        return Signature(self, args, kwargs, immutable=True)

    def signature(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **options: Any,
    ) -> Signature:
        """A signature with these arguments, and options as ``apply_async`` takes them."""
        return Signature(self, args, kwargs, options, immutable=immutable)

    def retry(  # noqa: PLR0917 - the order is Celery's
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Unpack[MessageOptions],
    ) -> Retry:
        """Run this task again, at ``eta`` or in ``countdown`` seconds (neither: ``default_retry_delay``).

        Raises Retry, which the worker turns into the next message; with ``throw=False`` the message is sent at once and
        the Retry returned. With ``max_retries`` used up, raises ``exc``, or MaxRetriesExceededError without one. Called
        directly, there is nobody to run it again: raises ``exc``, or the Retry.
        """
        context = self.request
        check_names(f"task {self.name}, retry", options, MessageOptions.__annotations__)
        check_priority(f"task {self.name}, retry", options.get("priority"))
        if max_retries is not None:
            context.max_retries = max_retries
        if context.called_directly:
            _raise_over_current(exc or Retry("Task can be retried", None))
        args, kwargs = inherited_arguments(self.run, context.args, context.kwargs, args, kwargs)
        limit = self.max_retries if max_retries is None else max_retries
        if limit is not None and context.retries >= limit:
            if exc is not None:
                _raise_over_current(exc)
            raise MaxRetriesExceededError(f"Can't retry {self.name}[{context.id}] args:{args} kwargs:{kwargs}")
        when = eta if eta is not None else self.default_retry_delay if countdown is None else countdown
        retry = Retry(exc=exc, when=when, signature={**options, "args": args, "kwargs": kwargs})
        if throw:
            raise retry
        self._send_retry(context, retry)
        return retry

    def _send_retry(self, context: TaskContext, retry: Retry) -> None:
        if context.is_eager:
            return  # as in Celery: an eager run is run again only by the Retry that it raises
        if context.message is None or context.queue is None:
            raise RuntimeError(f"task {self.name}: retry(throw=False) works in a worker only")
        message, _ = retry_message(context.message, retry, datetime.now(UTC))
        self.app.publisher.publish([self.app.outgoing_retry(message, retry, context.queue)])
        retry.sent = True

    def update_state(self, task_id: str | None = None, state: str | None = None, meta: Any = None) -> None:
        """Store a state of the user's own, such as PROGRESS, with ``meta`` as what ``AsyncResult.result`` gives.

        ``task_id`` is by default that of the run. Raises ValueError without a state, or without an id outside a run,
        and EncodeError for a ``meta`` that cannot be encoded.
        """
        task_id = task_id or self.request.id
        if not task_id or not state:
            missing = "task_id, as no worker runs it here" if not task_id else "state"
            raise ValueError(f"task {self.name}: update_state needs a {missing}")
        if self.request.is_eager:
            return  # an eager run keeps its result alone
        message = self.request.message
        if message is not None and message.id == task_id:
            self.app.results.store(ResultMeta.of(message, state, meta))
        else:
            self.app.results.store(ResultMeta(task_id, state, meta))

    def AsyncResult(self, task_id: str) -> AsyncResult:  # noqa: N802 - Celery's name
        """The result of a run of this task."""
        return self.app.AsyncResult(task_id)


def _raise_over_current(exc: BaseException) -> NoReturn:
    """Raise ``exc``, with what is being handled now as its cause if that is another exception."""
    current = sys.exception()
    if current is exc or current is None:
        raise exc
    raise exc from current
