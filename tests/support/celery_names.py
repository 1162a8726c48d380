"""Every public name of the installed Celery, by what it is a name of: what docs/from_celery.toml has to answer for.

Taken from Celery itself, so that a new release of it with a new name fails the test of the table.
"""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import celery
import celery.bin.celery
import celery.bin.worker
import celery.canvas
import celery.exceptions
import celery.result
import celery.signals
from celery.app import autoretry
from celery.app.amqp import AMQP
from celery.app.defaults import NAMESPACES, Option
from celery.app.task import Context, Task, extract_exec_options
from celery.canvas import Signature
from celery.result import AsyncResult


def options() -> dict[str, Option]:
    """Celery's settings, with what it says of each."""
    return dict(_walk("", NAMESPACES))


def _walk(prefix: str, namespace: dict[str, Any]) -> Iterator[tuple[str, Option]]:
    for key, value in namespace.items():
        if isinstance(value, Option):
            yield f"{prefix}{key}", value
        else:
            yield from _walk(f"{prefix}{key}_", value)


def _public(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def _attributes(thing: Any) -> set[str]:
    return _public(dir(thing)) - (set(dir(dict)) if isinstance(thing, dict) else set())


def _flags() -> set[str]:
    """Of ``celery`` and of ``celery worker``, short and long."""
    commands = (celery.bin.celery.celery, celery.bin.worker.worker)
    return {flag for command in commands for parameter in command.params for flag in parameter.opts}


def _parameters(function: Callable[..., Any]) -> set[str]:
    found = inspect.signature(function).parameters.values()
    return {each.name for each in found if each.kind not in {each.VAR_KEYWORD, each.VAR_POSITIONAL}} - {"self"}


def _inner_parameters(function: Callable[..., Any], name: str) -> set[str]:
    """Of the function of that name which ``function`` makes."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    inner = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)
    return {argument.arg for argument in (*inner.args.args, *inner.args.kwonlyargs)}


def _task_options() -> set[str]:
    """What ``@app.task`` takes besides attributes of the task."""
    found = _parameters(celery.Celery._task_from_fun) - {"fun"}
    found |= _inner_parameters(celery.Celery.task, "inner_create_task_cls")
    return found | set(re.findall(r"options\.get\(\s*['\"](\w+)", inspect.getsource(autoretry)))


def _send_options() -> set[str]:
    """What ``apply_async`` and ``send_task`` hand on to the message, and what tells how to send it."""
    found = _parameters(celery.Celery.send_task) | _parameters(Task.apply_async)
    found |= _inner_parameters(AMQP._create_task_sender, "send_task_message")
    return (found | set(extract_exec_options(Task))) - {"name", "args", "kwargs", "message"}


def _submodules() -> set[str]:
    """They stand in the package as soon as anybody has imported them."""
    return {module.name for module in pkgutil.iter_modules(celery.__path__)}


def names() -> dict[str, set[str]]:
    """All names, by what they are names of."""
    app = celery.Celery("names", set_as_current=False)
    return {
        "settings": set(options()),
        "flags": _flags(),
        "celery": _public({*celery.__all__, *dir(celery)}) - _submodules(),
        "app arguments": _parameters(celery.Celery),
        "app": _attributes(app),
        "task options": _task_options(),
        "task": _attributes(Task),
        "send options": _send_options(),
        "request": _attributes(Context),
        "result": _attributes(AsyncResult("id", app=app)),
        "signature": _attributes(Signature({})),
        "canvas": set(celery.canvas.__all__),
        "results": set(celery.result.__all__),
        "signals": set(celery.signals.__all__),
        "exceptions": set(celery.exceptions.__all__),
    }
