"""Finding the App that ``-A`` names: ``shop.tasks:app``, or ``shop.tasks`` where it has but one."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

from greenworker.app.app import App
from greenworker.errors import AppError, GreenworkerError

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?")
SHOWN_FRAMES = 3  # of a traceback in the app: the place that failed and who called it


def load_app(name: str) -> App:
    """Import the module of ``module:attribute`` (or ``module``), return its App, all modules of its tasks imported.

    The current folder is put first on ``sys.path``, as Celery does. Raises AppError, which says what was looked for,
    where, and what was found.
    """
    module_name, _, attribute = name.partition(":")
    if not _NAME.fullmatch(name):
        raise AppError(
            f"app {name!r}: expected module:attribute, such as shop.tasks:app, or a module, such as shop.tasks"
        )
    module = _import(module_name, name)
    app = _attribute_app(module, attribute, name) if attribute else _only_app(module, name)
    _import_tasks(app, name)
    return app


def _import_tasks(app: App, name: str) -> None:
    try:
        app.import_tasks()
    except GreenworkerError as exc:
        raise AppError(f"app {name!r}: {exc}") from exc
    except (Exception, SystemExit) as exc:  # a module of the app's own ran: whatever it raised is told with its place
        raise AppError(_failed(exc, "its tasks", name)) from exc


def _import(module_name: str, name: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (module_name == exc.name or module_name.startswith(f"{exc.name}.")):
            raise AppError(_no_module(exc, name, folder)) from exc
        raise AppError(_failed(exc, module_name, name)) from exc
    except GreenworkerError as exc:
        raise AppError(f"app {name!r}: {exc}") from exc
    except (Exception, SystemExit) as exc:  # the app's own code ran: whatever it raised is told with its place
        raise AppError(_failed(exc, module_name, name)) from exc


def _no_module(exc: ModuleNotFoundError, name: str, folder: str) -> str:
    if "not a package" in str(exc):
        return f"app {name!r}: {exc}; write module:attribute, such as shop.tasks:app"
    return f"app {name!r}: there is no module {exc.name!r} in {folder} or on the Python path"


def _failed(exc: BaseException, module_name: str, name: str) -> str:
    lines = [f"app {name!r}: importing {module_name} failed: {type(exc).__name__}: {exc}"]
    if isinstance(exc, SyntaxError) and exc.filename:
        lines.append(f"  {exc.filename}:{exc.lineno}: {(exc.text or '').strip()}")
        return "\n".join(lines)
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if not _is_machinery(frame.filename)]
    lines += [f"  {frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}" for frame in frames[-SHOWN_FRAMES:]]
    return "\n".join(lines)


def _is_machinery(filename: str) -> bool:
    return filename == __file__ or filename.startswith("<frozen ") or filename == importlib.__file__


def _attribute_app(module: ModuleType, attribute: str, name: str) -> App:
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            apps = _apps(module)
            hint = f"; its App is {' or '.join(apps)}" if apps else "; it has no App"
            raise AppError(f"app {name!r}: {module.__name__} ({module.__file__}) has no attribute {attribute!r}{hint}")
        found = getattr(found, part)
    if isinstance(found, App):
        return found
    raise AppError(f"app {name!r}: expected a greenworker.App, {_description(found)}")


def _only_app(module: ModuleType, name: str) -> App:
    apps = _apps(module)
    if isinstance(getattr(module, "app", None), App):
        return apps["app"]
    if len({id(app) for app in apps.values()}) == 1:
        return next(iter(apps.values()))
    if apps:
        choices = " or ".join(f"{name}:{attribute}" for attribute in apps)
        raise AppError(f"app {name!r}: {module.__name__} has several Apps; name one: {choices}")
    for value in vars(module).values():
        if _is_celery(value):
            raise AppError(f"app {name!r}: expected a greenworker.App, {_description(value)}")
    raise AppError(f"app {name!r}: {module.__name__} ({module.__file__}) has no App; write app = App('shop') in it")


def _apps(module: ModuleType) -> dict[str, App]:
    return {attribute: value for attribute, value in vars(module).items() if isinstance(value, App)}


def _is_celery(value: object) -> bool:
    return any(base.__module__.startswith("celery.app") and base.__name__ == "Celery" for base in type(value).__mro__)


def _description(value: object) -> str:
    if _is_celery(value):
        return (
            "found a celery.Celery; its tasks run here after a change of import: "
            "from greenworker import App in place of from celery import Celery, and App in place of Celery"
        )
    return f"got {type(value).__module__}.{type(value).__qualname__}: {value!r:.80}"
