"""``[route PATTERN]`` in files: read, merged, told and printed as every other section is."""

from __future__ import annotations

from pathlib import Path

from greenworker.settings import load_settings
from greenworker.settings.model import RouteSettings
from greenworker.settings.printing import settings_text


def test_routes_are_read_in_order_and_know_their_origin(tmp_path: Path) -> None:
    file = tmp_path / "shop.ini"
    file.write_text("[route shop.mail.*]\nqueue = mail\n[route  * ]\npriority = 3\n")
    settings = load_settings(config_files=[file], environ={})
    assert list(settings.routes) == ["shop.mail.*", "*"]
    assert settings.routes["shop.mail.*"] == RouteSettings(queue="mail")
    assert settings.routes["*"] == RouteSettings(priority=3)
    assert str(settings.origin("route *", "priority")) == f"{file}:4"
    assert settings.queues == {}


def test_a_later_file_counts_over_an_earlier_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first.ini", tmp_path / "second.ini"
    first.write_text("[route shop.*]\nqueue = slow\npriority = 1\n")
    second.write_text("[route shop.*]\nqueue = fast\n")
    settings = load_settings(config_files=[first, second], environ={})
    assert settings.routes == {"shop.*": RouteSettings(queue="fast", priority=1)}


def test_routes_print_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "shop.ini"
    file.write_text("[route shop.?]\npriority = 0\n[queue mail]\nweight = 2\n[route *]\nqueue = mail\n")
    settings = load_settings(config_files=[file], environ={})
    text = settings_text(settings)
    assert f"[route shop.?]\n# default\nqueue =\n# {file}:2\npriority = 0\n" in text
    file.write_text(text)
    assert load_settings(config_files=[file], environ={}) == settings
