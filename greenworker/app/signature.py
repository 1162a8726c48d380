"""Signature: one call of one task, written down: to be sent later, or after another task (``link``, ``link_error``).

It is a dict with Celery's six keys, so that it travels in messages as Celery's does and each side reads the other's.
Chains, groups and chords are not here: ``|`` says so.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar

from greenworker.app.shared_tasks import current_app
from greenworker.errors import AppError

if TYPE_CHECKING:
    from greenworker.app.app import App
    from greenworker.app.result import AsyncResult
    from greenworker.app.task import Task

Value = TypeVar("Value")

KEPT_OPTIONS = frozenset({"group_id", "stamped_headers"})  # what the signature says of these, no call overrides


class MalformedSignatureError(ValueError):
    """A value that stands where a signature should, and is none."""


class Key(Generic[Value]):
    """A key of a signature, as an attribute."""

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    def __get__(self, signature: Signature, owner: type[Any]) -> Value:
        value: Value = signature[self._name]
        return value

    def __set__(self, signature: Signature, value: Value) -> None:
        signature[self._name] = value


class Signature(dict[str, Any]):
    """A task's name, the arguments and the options it is to be sent with.

    Arguments given when it is sent come before its own; an ``immutable`` one takes none. Keys: ``task``, ``args``,
    ``kwargs``, ``options``, ``subtask_type`` (None: one task), ``immutable``; each is an attribute too.
    """

    def __init__(
        self,
        task: Task | str | Mapping[str, Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        app: App | None = None,
        **more_options: Any,
    ) -> None:
        """``task`` may be a signature, or one as a dict. Raises MalformedSignatureError for one that is none.

        Without an ``app``, and with a task or signature that has none, it is sent through the App that is current then
        (App.set_current).
        """
        self.app: App | None = app or getattr(task, "app", None)
        if isinstance(task, Mapping):
            super().__init__(_checked(task))
            return
        if not isinstance(task, str):
            task = task.name
        super().__init__(
            task=task,
            args=tuple(args or ()),
            kwargs=dict(kwargs or {}),
            options={**(options or {}), **more_options},
            subtask_type=None,
            immutable=immutable,
        )

    task = Key[str]()
    args = Key[Sequence[Any]]()
    kwargs = Key[dict[str, Any]]()
    options = Key[dict[str, Any]]()
    subtask_type = Key[str | None]()
    immutable = Key[bool]()

    @property
    def name(self) -> str:
        """The task's name, under Celery's other name."""
        return self.task

    def __repr__(self) -> str:
        given = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"{self.task}({', '.join(given)})"

    # --- sending and calling -------------------------------------------------------------------------------------

    @property
    def type(self) -> Task:
        """The task. Raises NotRegistered if its app has none of that name, AppError if there is no app."""
        return self._app().tasks[self.task]

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult:
        """Send it; ``args`` come before its own."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult:
        """Send it; returns when the broker has confirmed the message. Options of None count as not given.

        Raises as ``Task.apply_async`` does; AppError if there is no app.
        """
        app = self._app()
        merged_args, merged_kwargs, merged_options = self.merged(args, kwargs, options)
        task = app.tasks.find(self.task)
        if task is None:
            return app.send_task(self.task, merged_args, merged_kwargs, **merged_options)
        return task.apply_async(merged_args, merged_kwargs, **merged_options)

    def apply(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult:
        """Run it here and now, as ``Task.apply`` does."""
        merged_args, merged_kwargs, merged_options = self.merged(args, kwargs, options)
        return self.type.apply(merged_args, merged_kwargs, **merged_options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task's function here."""
        merged_args, merged_kwargs, _ = self.merged(args, kwargs)
        return self.type(*merged_args, **merged_kwargs)

    # --- making others of it -------------------------------------------------------------------------------------

    def merged(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Sequence[Any], dict[str, Any], dict[str, Any]]:
        """Its arguments and options together with these: what a message made of it has."""
        own = self.options
        given = {
            name: value
            for name, value in (options or {}).items()
            if value is not None and not (name in KEPT_OPTIONS and name in own)
        }
        if self.immutable:
            return self.args, self.kwargs, {**own, **given}
        return (*(args or ()), *self.args), {**self.kwargs, **(kwargs or {})}, {**own, **given}

    def clone(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Signature:
        """A copy, with more arguments and options; its links can be changed without changing this one's."""
        merged_args, merged_kwargs, merged_options = self.merged(args, kwargs, options)
        copied = {**self, "args": tuple(merged_args), "kwargs": dict(merged_kwargs)}
        copied["options"] = copy.deepcopy(merged_options)
        return Signature(copied, app=self.app)

    partial = clone

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Set options, as ``apply_async`` takes them; returns itself."""
        if immutable is not None:
            self["immutable"] = immutable
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Whether it takes no arguments but its own."""
        self["immutable"] = immutable

    def freeze(self, task_id: str | None = None) -> AsyncResult:
        """Give it the id it is to be sent with, unless it has one; returns the result of that task to come."""
        return self._app().AsyncResult(self.options.setdefault("task_id", task_id or str(uuid.uuid4())))

    # --- links ---------------------------------------------------------------------------------------------------

    def link(self, callback: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send ``callback`` when this task succeeds, with its result as the first argument; returns ``callback``."""
        return self._add_link("link", callback)

    def link_error(self, errback: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send or call ``errback`` when this task fails (app/links.py says which); returns ``errback``."""
        return self._add_link("link_error", errback)

    def on_error(self, errback: Mapping[str, Any]) -> Self:
        """As ``link_error``, but returns itself."""
        self.link_error(errback)
        return self

    def _add_link(self, option: str, link: Mapping[str, Any]) -> Mapping[str, Any]:
        links = as_list(self.options.get(option)) or []
        self.options[option] = links if link in links else [*links, link]
        return link

    # --- as a dict -----------------------------------------------------------------------------------------------

    def __or__(self, other: Any) -> NoReturn:
        """Dicts merge with ``|``, which nobody who writes it between signatures means."""
        raise TypeError("chains (a | b) are not here; to run one task after another: a.link(b), or link=b")

    __ror__ = __ior__ = __or__

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature:
        return Signature(copy.deepcopy(dict(self), memo), app=self.app)

    def __reduce__(self) -> tuple[Any, ...]:
        return Signature, (dict(self),)

    def _app(self) -> App:
        app = self.app or current_app()
        if app is None:
            raise AppError(
                f"the signature of {self.task} knows no App, and there is none yet: import the module of one"
            )
        return app


signature = Signature  # Celery's other name


def read_signature(value: Any, app: App) -> Signature:
    """The signature that a message carries as ``value``. Raises MalformedSignatureError."""
    return Signature(_checked(value), app=app)


def as_list(links: Any) -> list[Any] | None:
    """``links`` as a list: None stays None, one signature is a list of one."""
    if links is None:
        return None
    return [links] if isinstance(links, Mapping) else list(links)


def on_the_wire(links: Any) -> list[dict[str, Any]] | None:
    """One or several signatures as plain dicts, their own links too: what every serializer can write.

    Raises MalformedSignatureError.
    """
    if links is None:
        return None
    if isinstance(links, str) or not isinstance(links, Iterable):
        raise MalformedSignatureError(f"expected a signature, such as task.s(), or a list of them; got {links!r}")
    return [_plain(link) for link in as_list(links) or []]


def _plain(link: Any) -> dict[str, Any]:
    plain = _checked(link)
    options = dict(plain["options"])
    for name in ("link", "link_error"):
        if name in options:
            options[name] = on_the_wire(options[name])
    return {**plain, "options": options}


def _checked(value: Any) -> dict[str, Any]:
    """The six keys of a signature, each of its type; others it may have stay."""
    if not isinstance(value, Mapping):
        raise MalformedSignatureError(f"expected a signature, such as task.s(); got {type(value).__name__} {value!r}")
    task = value.get("task")
    if not isinstance(task, str) or not task:
        raise MalformedSignatureError(f"a signature's task: expected a name, got {task!r}")
    args, kwargs, options = value.get("args") or (), value.get("kwargs") or {}, value.get("options") or {}
    if isinstance(args, (str, bytes)) or not isinstance(args, Sequence):
        raise MalformedSignatureError(f"signature of {task}: args must be a list, got {args!r}")
    for name, mapping in (("kwargs", kwargs), ("options", options)):
        if not isinstance(mapping, Mapping) or not all(isinstance(key, str) for key in mapping):
            raise MalformedSignatureError(f"signature of {task}: {name} must be a mapping of names, got {mapping!r}")
    return {
        **value,
        "args": args,
        "kwargs": dict(kwargs),
        "options": dict(options),
        "subtask_type": value.get("subtask_type"),
        "immutable": bool(value.get("immutable", False)),
    }
