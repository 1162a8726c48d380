"""Names of tasks, by Celery's rule, so that a message means the same function to both."""

from __future__ import annotations

import sys
from pathlib import Path

MAIN = "__main__"


def task_name(app_name: str | None, module: str | None, function: str) -> str:
    """``module.function``. For a function of the script that was started, ``app_name`` stands for the module.

    Without an app name the script's own file name does (``shop.py`` -> ``shop``), since that is what a worker that
    imports the file calls it.
    """
    module = module or MAIN
    if module == MAIN:
        module = app_name or _script_name() or MAIN
    return f"{module}.{function}"


def _script_name() -> str | None:
    """The name under which another process would import the running script."""
    main = sys.modules.get(MAIN)
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m shop.tasks
        return str(spec.name).removesuffix(f".{MAIN}")
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else None
