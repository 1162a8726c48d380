"""docs/tasks.md: its examples, run by a worker in the test's process; its tables and routes, held against the code."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from greenworker import signals
from greenworker.app.options import SendOptions, TaskOptions
from greenworker.app.routes import route
from greenworker.settings import load_settings
from tests.support.pages import blocks, make_project, run_tests
from tests.support.worker import REPOSITORY

pytest_plugins = ["pytester"]

PAGE = "tasks.md"
TEXT = (REPOSITORY / "docs" / PAGE).read_text()
MODULES = {found[1]: code for code in blocks(PAGE) if (found := re.match(r"# shop/(\w+)\.py\n", code))}
CALLS = [code for code in blocks(PAGE) if code not in MODULES.values()]
PYTEST_INI = "[pytest]\ngreenworker_app = shop.tasks:app\n"


def test_the_examples_run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_project(pytester, monkeypatch, MODULES, PYTEST_INI)
    routes = tmp_path / "shop.ini"
    routes.write_text(blocks(PAGE, "ini")[0])
    monkeypatch.setenv("GREENWORKER_CONFIG", str(routes))
    imports = "".join(f"import shop.{name}\n" for name in MODULES)
    tests = [
        f"def test_{number}(greenworker_worker):\n{textwrap.indent(code, '    ')}" for number, code in enumerate(CALLS)
    ]
    run_tests(pytester, "\n".join([imports, *tests]), passed=len(CALLS))


def test_the_routes_lead_where_it_says(tmp_path: Path) -> None:
    file = tmp_path / "shop.ini"
    file.write_text(blocks(PAGE, "ini")[0])
    routes = load_settings(config_files=[file], environ={}).routes
    found = [route(None, routes, name, (), {}, {}) for name in ("shop.mail.other", "shop.mail.send_mail", "shop.add")]
    assert found == [{"queue": "mail", "priority": 5}, {"queue": "urgent"}, {}]


@pytest.mark.parametrize(
    ("table", "options"),
    [("option", {*TaskOptions.__annotations__, "base"}), ("option of a call", {*SendOptions.__annotations__})],
)
def test_the_tables_have_every_option(table: str, options: set[str]) -> None:
    rows = re.search(rf"^\| {table} \|.*?\n\n", TEXT, re.DOTALL | re.MULTILINE)
    assert rows is not None
    first_cells = [row.split("|")[1] for row in rows[0].splitlines()[2:] if row]
    assert {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)} == options


def test_it_names_every_signal() -> None:
    assert set(re.findall(r"`((?:worker|task|before|after)_\w+)`", TEXT)) >= {*signals.__all__} - {"Signal"}
