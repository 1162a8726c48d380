"""What ``[worker] release`` may name, and what a name stands for."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator

import pytest
import sqlalchemy
from sqlalchemy import orm

from greenworker.errors import SettingsError
from greenworker.execution.release import find_releases
from greenworker.settings import load_settings

MODULE = "release_names_module"


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    module = sys.modules[MODULE] = types.ModuleType(MODULE)
    yield module
    del sys.modules[MODULE]


def test_a_function_of_ones_own(module: types.ModuleType) -> None:
    module.give_back = lambda: "given"  # type: ignore[attr-defined]
    [(name, release)] = find_releases([f"{MODULE}:give_back"])
    assert (name, release()) == (f"{MODULE}:give_back", "given")


def test_a_scoped_session_is_removed_from_wherever_it_hangs(module: types.ModuleType) -> None:
    module.db = types.SimpleNamespace()  # type: ignore[attr-defined]
    module.db.session = session = orm.scoped_session(orm.sessionmaker(sqlalchemy.create_engine("sqlite://")))
    [(_, release)] = find_releases([f"sqlalchemy:{MODULE}:db.session"])
    first = session()
    release()
    assert session() is not first
    release()


def test_all_that_cannot_be_had_is_told_at_once(module: types.ModuleType) -> None:
    module.number = 5  # type: ignore[attr-defined]
    names = ["nowhere_at_all:x", f"{MODULE}:missing", f"{MODULE}:number", f"sqlalchemy:{MODULE}:number", "django"]
    with pytest.raises(SettingsError) as caught:
        find_releases(names)
    told = caught.value.problems
    assert [problem.split(": ")[1] for problem in told] == names
    assert "No module named 'nowhere_at_all'" in told[0]
    assert "has no attribute 'missing'" in told[1]
    assert "expected something to call, got 5" in told[2]
    assert "expected a sqlalchemy.orm.scoped_session, got 5" in told[3]
    assert "ImproperlyConfigured" in told[4]


@pytest.mark.parametrize("value", ["django", "sqlalchemy:shop.db:Session", "shop.db:x, django", "shop.db:a.b"])
def test_names_that_the_setting_takes(value: str) -> None:
    settings = load_settings(overrides={("worker", "release"): value}, environ={})
    assert ", ".join(settings.worker.release) == value


@pytest.mark.parametrize("value", ["sqlalchemy", "flask", "shop.db"])
def test_names_that_it_does_not_take(value: str) -> None:
    with pytest.raises(SettingsError, match=r"sqlalchemy:package\.module:Session"):
        load_settings(overrides={("worker", "release"): value}, environ={})
