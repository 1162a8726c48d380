"""The user's own boot steps, named in ``[worker] steps`` and ``[consumer] steps``.

A step's class says where it goes: ``before = "pool"`` or ``after = "pool"``; with neither it goes to the end.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from greenworker.bootsteps import Placement, Step
from greenworker.errors import SettingsError


def user_steps(section: str, names: Sequence[str]) -> list[Placement]:
    """The steps of ``[section] steps``. Raises SettingsError with every one that cannot be had."""
    problems: list[str] = []
    placements: list[Placement] = []
    for name in names:
        try:
            placements.append(_placement(name))
        except (ImportError, AttributeError, TypeError, ValueError) as exc:
            problems.append(f"[{section}] steps: {name}: expected module:Class of a greenworker.bootsteps.Step: {exc}")
    if problems:
        raise SettingsError(problems)
    return placements


def _placement(name: str) -> Placement:
    module, _, attribute = name.partition(":")
    found: Any = getattr(importlib.import_module(module), attribute)
    if not (isinstance(found, type) and issubclass(found, Step)):
        raise TypeError(f"got {found!r}")
    return Placement(found, getattr(found, "before", None), getattr(found, "after", None))
