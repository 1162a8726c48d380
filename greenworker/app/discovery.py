"""Discovery: importing the modules that a project's tasks stand in, found by the packages that they are in."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from greenworker.errors import AppError

Packages = Iterable[str] | Callable[[], Iterable[str]]

DJANGO_SETTINGS = "DJANGO_SETTINGS_MODULE"


@dataclass(frozen=True, slots=True)
class Discovery:
    """What one ``autodiscover_tasks`` asked for: ``module`` of each package, or (None) the packages themselves.

    ``packages`` None stands for Django's installed apps.
    """

    packages: Packages | None
    module: str | None

    def import_modules(self) -> None:
        """Import those that are there: a package without such a module has no tasks.

        Raises AppError for a package that is not there, and what a module that is there raises.
        """
        packages = django_packages if self.packages is None else self.packages
        for name in tuple(packages() if callable(packages) else packages):
            self._import(name)

    def _import(self, name: str) -> None:
        try:
            package = importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
                raise  # it is there, and imports something that is not
            raise AppError(f"no tasks can be looked for in {name!r} (include, autodiscover_tasks): {exc}") from exc
        within = f"{name}.{self.module}"
        is_package = hasattr(package, "__path__")
        if self.module is not None and is_package and importlib.util.find_spec(within) is not None:
            importlib.import_module(within)


def django_packages() -> list[str]:
    """The packages of Django's installed apps, once Django is set up. Raises AppError where there is no Django."""
    if not os.environ.get(DJANGO_SETTINGS):
        raise AppError(f"autodiscover_tasks() without packages finds Django's apps, and {DJANGO_SETTINGS} is not set")
    importlib.import_module("django").setup()
    configs = importlib.import_module("django.apps").apps.get_app_configs()
    return [config.name for config in configs]
