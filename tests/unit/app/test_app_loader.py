"""Finding the App that ``-A`` names, and what is said when there is none."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from greenworker.app.loader import load_app
from greenworker.errors import AppError, NotRegistered

Write = Callable[[str], str]

counter = iter(range(10_000))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module into the current folder; returns its name, which no other test has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in {"", str(tmp_path)}])
    before = set(sys.modules)

    def write(source: str) -> str:
        name = f"project_{next(counter)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("project_"):
            del sys.modules[name]


def message(name: str) -> str:
    with pytest.raises(AppError) as caught:
        load_app(name)
    return str(caught.value)


def test_attribute(write: Write) -> None:
    name = write("from greenworker import App\nfirst = App('first')\nsecond = App('second')\nclass box: it = second")
    assert load_app(f"{name}:second").name == "second"
    assert load_app(f"{name}:box.it").name == "second"


def test_module_with_one_app_whatever_its_name(write: Write) -> None:
    name = write("from greenworker import App\nshop = App('shop')\nagain = shop")
    assert load_app(name).name == "shop"


def test_attribute_app_wins_among_several(write: Write) -> None:
    name = write("from greenworker import App\napp = App('main')\nother = App('other')")
    assert load_app(name).name == "main"


def test_several_apps(write: Write) -> None:
    name = write("from greenworker import App\nfirst = App('first')\nsecond = App('second')")
    assert message(name) == f"app '{name}': {name} has several Apps; name one: {name}:first or {name}:second"


def test_no_such_module(write: Write, tmp_path: Path) -> None:
    assert message("project_none.tasks:app") == (
        f"app 'project_none.tasks:app': there is no module 'project_none' in {tmp_path} or on the Python path"
    )


def test_dot_in_place_of_colon(write: Write) -> None:
    name = write("from greenworker import App\napp = App('shop')")
    assert "write module:attribute" in message(f"{name}.app")


def test_no_such_attribute(write: Write, tmp_path: Path) -> None:
    name = write("from greenworker import App\nshop = App('shop')")
    assert message(f"{name}:app") == (
        f"app '{name}:app': {name} ({tmp_path / name}.py) has no attribute 'app'; its App is shop"
    )


def test_module_without_an_app(write: Write) -> None:
    assert "has no App; write app = App('shop') in it" in message(write("x = 1"))


def test_attribute_that_is_no_app(write: Write) -> None:
    assert "expected a greenworker.App, got builtins.int: 1" in message(f"{write('x = 1')}:x")


@pytest.mark.parametrize("attribute", ["", ":app"])
def test_celery_app_gets_its_own_sentence(write: Write, attribute: str) -> None:
    name = write("from celery import Celery\napp = Celery('shop', set_as_current=False)")
    assert "found a celery.Celery; its tasks run here after a change of import" in message(name + attribute)


@pytest.mark.parametrize("name", ["", ":app", "shop:", "shop..x:app", ".shop"])
def test_names_that_are_none(write: Write, name: str) -> None:
    assert "expected module:attribute" in message(name)


def test_error_in_the_app_comes_with_its_place(write: Write, tmp_path: Path) -> None:
    name = write("""\
        def connect():
            raise OSError('no database')

        connect()
        """)
    assert message(f"{name}:app") == "\n".join(
        [
            f"app '{name}:app': importing {name} failed: OSError: no database",
            f"  {tmp_path / name}.py:4, in <module>: connect()",
            f"  {tmp_path / name}.py:2, in connect: raise OSError('no database')",
        ]
    )


def test_module_that_the_app_needs_and_that_is_missing(write: Write, tmp_path: Path) -> None:
    text = message(write("import project_missing_library"))
    assert "ModuleNotFoundError: No module named 'project_missing_library'" in text
    assert ".py:1, in <module>: import project_missing_library" in text


def test_syntax_error_in_the_app(write: Write, tmp_path: Path) -> None:
    name = write("def broken(:\n")
    assert f"{tmp_path / name}.py:1: def broken(:" in message(name)


def test_exit_in_the_app(write: Write) -> None:
    assert "SystemExit: 3" in message(write("import sys\nsys.exit(3)"))


def test_two_tasks_of_one_name_in_the_app(write: Write) -> None:
    name = write("""\
        from greenworker import App
        app = App('shop')
        app.task(lambda: 1, name='add')
        app.task(lambda: 2, name='add')
        """)
    text = message(name)
    assert "two tasks are named 'add'" in text and "Traceback" not in text


def test_tasks_are_registered_after_loading(write: Write) -> None:
    name = write("""\
        from greenworker import App
        app = App('shop')
        @app.task
        def add(x, y):
            return x + y
        """)
    app = load_app(name)
    assert [task.name for task in app.tasks.values()] == [f"{name}.add"]
    with pytest.raises(NotRegistered):
        app.tasks["other"]


def test_current_folder_comes_first_and_once(write: Write, tmp_path: Path) -> None:
    name = write("from greenworker import App\napp = App('shop')")
    load_app(name)
    load_app(name)
    assert sys.path[0] == str(tmp_path) and sys.path.count(str(tmp_path)) == 1
