"""``include`` and ``autodiscover_tasks``: which modules are imported, when, and what is said where one cannot be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from greenworker import App
from greenworker.app.loader import load_app
from greenworker.errors import AppError
from greenworker.settings.model import Settings

Write = Callable[..., None]

TASKS = "from {package}.app import app\n\n@app.task\ndef {task}():\n    return 1\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes files into the current folder, which is on the path; what they import is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(**sources: str) -> None:
        for name, source in sources.items():
            path = tmp_path / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in path.parents[: len(path.relative_to(tmp_path).parts) - 1]:
                (folder / "__init__.py").touch()
            path.write_text(source)

    yield write
    for name in set(sys.modules) - before:
        if name.partition(".")[0].startswith("found"):
            del sys.modules[name]


def test_tasks_of_packages_are_there_when_the_app_is_loaded(write: Write) -> None:
    write(
        found__app="from greenworker import App\n\napp = App('found')\n"
        "app.autodiscover_tasks(['found.orders', 'found.bare', 'found.late'])\n"
        "app.autodiscover(lambda: ['found.orders'], module='jobs')\n",
        found__orders__tasks=TASKS.format(package="found", task="order"),
        found__orders__jobs=TASKS.format(package="found", task="job"),
        found__late__tasks=TASKS.format(package="found", task="late"),
        found__bare__other="",
    )
    app = load_app("found.app:app")
    assert set(app.tasks) == {"found.orders.tasks.order", "found.orders.jobs.job", "found.late.tasks.late"}
    assert "found.bare" in sys.modules


def test_nothing_is_imported_before_that(write: Write) -> None:
    write(found__tasks="raise AssertionError")
    app = App("found", settings=Settings(), include=["found.nowhere"])
    app.autodiscover_tasks(["found"])
    assert "found" not in sys.modules


def test_at_once_with_force(write: Write) -> None:
    write(found__tasks="", found__jobs="")
    app = App("found", settings=Settings())
    app.autodiscover_tasks(["found"], force=True)
    assert "found.tasks" in sys.modules
    app.autodiscover_tasks(["found.jobs"], related_name=None, force=True)
    assert "found.jobs" in sys.modules


def test_included_modules(write: Write) -> None:
    write(found__jobs="")
    App("found", settings=Settings(), include=["found.jobs"]).import_tasks()
    assert "found.jobs" in sys.modules


def test_a_module_in_place_of_a_package_has_none_beside_it(write: Write) -> None:
    write(found_single="")
    app = App("found", settings=Settings())
    app.autodiscover_tasks(["found_single"], force=True)
    assert "found_single" in sys.modules


def test_what_goes_wrong_in_a_module_is_told_with_its_place(write: Write, tmp_path: Path) -> None:
    app = "from greenworker import App\n\napp = App('found')\napp.autodiscover_tasks(['found'])\n"
    write(found__app=app, found__tasks="x = 1\nimport no_such_library\n")
    with pytest.raises(AppError) as raised:
        load_app("found.app:app")
    text = str(raised.value)
    assert text.startswith("app 'found.app:app': importing its tasks failed: ModuleNotFoundError: No module named 'no")
    assert f"{tmp_path}/found/tasks.py:2, in <module>: import no_such_library" in text


def test_a_missing_package_is_told(write: Write) -> None:
    write(found__tasks="")
    app = App("found", settings=Settings())
    for name in ("found.nothing", "found_nothing.at.all"):
        with pytest.raises(AppError, match=rf"no tasks can be looked for in '{name}'"):
            app.autodiscover_tasks([name], force=True)
        app = App("found", settings=Settings())


def test_a_package_that_cannot_be_imported_is_no_missing_one(write: Write) -> None:
    write(found__app="", found_broken="import no_such_library")
    app = App("found", settings=Settings())
    for _ in range(2):  # the second time, too: what failed was not forgotten
        with pytest.raises(ModuleNotFoundError, match="no_such_library"):
            app.autodiscover_tasks(["found_broken"], force=True)


def test_modules_that_discover_more(write: Write) -> None:
    write(
        found__app="from greenworker import App\n\napp = App('found')\napp.autodiscover_tasks(['found'])\n",
        found__tasks="from found.app import app\n\napp.autodiscover_tasks(['found.more'], force=True)\n",
        found__more__tasks=TASKS.format(package="found", task="more"),
    )
    assert set(load_app("found.app").tasks) == {"found.more.tasks.more"}


def test_without_packages_it_is_djangos_apps_that_count(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App("found", settings=Settings())
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    with pytest.raises(AppError, match="finds Django's apps, and DJANGO_SETTINGS_MODULE is not set"):
        app.autodiscover_tasks(force=True)
