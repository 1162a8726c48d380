"""The example project loads, and its tasks can be called like functions."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from greenworker.app.loader import load_app
from greenworker.settings.model import Settings


def test_shop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3] / "examples")
    monkeypatch.setattr(sys, "path", list(sys.path))
    app = load_app("shop.tasks:app")
    app.use_settings(Settings())
    assert list(app.tasks) == ["shop.add", "shop.fetch", "shop.ship", "shop.greet"]
    assert app.tasks["shop.add"](2, 2, z=1) == 5
    assert asyncio.run(app.tasks["shop.greet"]("Ada")) == "Hello, Ada"
    with pytest.raises(LookupError, match="order 3 is not packed yet"):
        app.tasks["shop.ship"](3)
