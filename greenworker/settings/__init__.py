"""One table of settings; strict INI files, environment and command line become frozen Settings that know their origin.

Names are handed out lazily: ``settings.pool_name`` is imported before patching, and must bring nothing else in.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from greenworker.settings.command_line import add_arguments, settings_from
    from greenworker.settings.load import load_settings
    from greenworker.settings.model import QueueSettings, Settings
    from greenworker.settings.origin import Origin
    from greenworker.settings.secrets import mask, mask_url
    from greenworker.settings.state import state_directory

__all__ = [
    "Origin",
    "QueueSettings",
    "Settings",
    "add_arguments",
    "load_settings",
    "mask",
    "mask_url",
    "settings_from",
    "state_directory",
]

_HOMES = {
    "Origin": "greenworker.settings.origin",
    "QueueSettings": "greenworker.settings.model",
    "Settings": "greenworker.settings.model",
    "add_arguments": "greenworker.settings.command_line",
    "load_settings": "greenworker.settings.load",
    "mask": "greenworker.settings.secrets",
    "mask_url": "greenworker.settings.secrets",
    "settings_from": "greenworker.settings.command_line",
    "state_directory": "greenworker.settings.state",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
