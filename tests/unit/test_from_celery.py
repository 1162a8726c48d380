"""docs/from_celery.toml holds against the installed Celery and against greenworker.

Every name of Celery's is in it, once, and nothing else; every "the same" is true: the setting, flag, attribute or
argument is here, with Celery's default unless the row says how it differs, and a test that exists shows what it does.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import celery
import pytest
from celery.app.task import Task as CeleryTask
from celery.canvas import Signature as CelerySignature
from celery.result import AsyncResult as CeleryResult

import greenworker
from greenworker import App, AsyncResult, Signature, errors, signals
from greenworker import app as app_package
from greenworker.app.context import TaskContext
from greenworker.app.options import SendOptions, TaskOptions
from greenworker.cli.main import COMMANDS
from greenworker.settings import table
from scripts.from_celery import TUTORIAL, Group, Row, page_text, read_changes, read_groups
from tests.support import celery_names

TESTS = Path(__file__).resolve().parents[1]
GROUPS = read_groups()
NAMES = celery_names.names()
Case = tuple[Group, Row, str]
CASES: list[Case] = [(group, row, name) for group in GROUPS for row in group.rows for name in row.names]
SETTING = re.compile(r"`\[(worker|consumer|task|broker|results|log|queue \w+|route [\w*]+)\] (\w+)`")


def ids(case: Case) -> str:
    return f"{case[0].of}-{case[2]}"


def of_kind(*kinds: str, of: str = "") -> list[Case]:
    return [case for case in CASES if case[1].kind in kinds and of in {"", case[0].of}]


# --- the table is whole


@pytest.mark.parametrize("of", NAMES)
def test_every_name_of_celerys_is_in_the_table_once_and_no_other(of: str) -> None:
    listed = Counter(name for group, _, name in CASES if group.of == of)
    assert {name for name, count in listed.items() if count > 1} == set()
    assert set(listed) - NAMES[of] == set(), "not Celery's"
    assert NAMES[of] - set(listed) == set(), "not in the table"


def test_no_group_is_of_something_unknown() -> None:
    assert {group.of for group in GROUPS} == set(NAMES)


def test_the_page_has_every_name_and_every_reason() -> None:
    page = page_text()
    for _, row, name in CASES:
        assert f"`{name}`" in page
        assert row.kind == "same" or row.answer in page


def test_a_row_that_is_none_is_told(tmp_path: Path) -> None:
    wrong = tmp_path / "table.toml"
    for row in ('{ same = true, absent = "so" }', '{ note = "nothing" }', '{ same = true, notes = "misspelt" }'):
        wrong.write_text(f'[[group]]\nof = "task"\ntitle = "t"\n[group.rows]\nrun = {row}\n')
        with pytest.raises(ValueError, match="run: expected one of same, here, later, absent"):
            read_groups(wrong)


# --- settings


def row_of(celery_name: str) -> table.Row:
    """The setting that is called as Celery's: ``task_time_limit`` is ``[task] time_limit``."""
    section, _, key = celery_name.partition("_")
    found = table.find_row(section, key)
    assert found is not None, f"there is no [{section}] {key}"
    return found


def comparable(value: Any) -> Any:
    """A default, as both sides would have it: seconds for times, lists for tuples, no number types."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    return tuple(value) if isinstance(value, (list, tuple)) else value or None


def check_default(row: Row, name: str, ours: table.Row) -> None:
    celerys = celery_names.options()[name].default
    if row.default:
        assert comparable(ours.default) != comparable(celerys), f"{name}: the defaults are the same"
    else:
        assert comparable(ours.default) == comparable(celerys), f"{name}: the row must say how the default differs"


@pytest.mark.parametrize("case", of_kind("same", of="settings"), ids=ids)
def test_a_setting_that_is_the_same(case: Case) -> None:
    _, row, name = case
    check_default(row, name, row_of(name))


@pytest.mark.parametrize("case", [case for case in of_kind("here") if SETTING.search(case[1].answer)], ids=ids)
def test_a_setting_under_another_name(case: Case) -> None:
    group, row, name = case
    for section, key in SETTING.findall(row.answer + row.note):
        assert table.find_row(section, key) is not None, f"there is no [{section}] {key}"
    section, key = SETTING.findall(row.answer)[0]
    ours = table.find_row(section, key)
    if group.of == "settings" and ours is not None and celery_names.options()[name].type in {"int", "float", "bool"}:
        check_default(row, name, ours)


@pytest.mark.parametrize("case", of_kind("absent", "later", of="settings"), ids=ids)
def test_a_setting_that_is_not_here(case: Case) -> None:
    section, _, key = case[2].partition("_")
    assert table.find_row(section, key) is None


def test_settings_that_the_page_names_exist() -> None:
    named = re.findall(r"`\[([\w *]+)\] (\w+)[^`]*`", page_text())
    assert len(named) > 40
    named = [each for each in named if each != ("section", "key")]
    assert [each for each in named if table.find_row(*each) is None] == []


# --- the command line


@pytest.mark.parametrize("case", of_kind("same", of="flags"), ids=ids)
def test_a_flag_that_is_the_same(case: Case) -> None:
    assert case[2] in {flag for row in table.ROWS for flag in row.flags} | {"--version"}


@pytest.mark.parametrize("case", of_kind("here", of="flags"), ids=ids)
def test_a_flag_under_another_name(case: Case) -> None:
    flags = {flag for row in table.ROWS for flag in row.flags} | {"-C", "--config"}
    for named in re.findall(r"`(--?\w[\w-]*)[^`]*`", case[1].answer):
        assert named in flags
    for command in re.findall(r"`greenworker ([\w-]+)`", case[1].answer):
        assert command in COMMANDS


def test_flags_that_are_not_here() -> None:
    flags = {flag for row in table.ROWS for flag in row.flags}
    assert {name for _, _, name in of_kind("absent", "later", of="flags")} & flags == set()


# --- Python


@functools.cache
def sides() -> Mapping[str, tuple[Any, Any]]:
    """Celery's object and ours, by what their attributes are names of."""
    ours = App("names", set_as_current=False)
    task = ours.task(name="names.task")(print)
    return {
        "celery": (celery, greenworker),
        "app": (celery.Celery, ours),
        "task": (CeleryTask, task),
        "request": (None, TaskContext()),
        "result": (CeleryResult, AsyncResult("id", ours)),
        "signature": (CelerySignature, Signature(task)),
        "canvas": (celery.canvas, greenworker),
        "results": (celery.result, app_package),
        "signals": (None, signals),
        "exceptions": (None, errors),
    }


@pytest.mark.parametrize("case", [case for case in of_kind("same") if case[0].of in sides()], ids=ids)
def test_an_attribute_that_is_the_same(case: Case) -> None:
    group, row, name = case
    celerys, ours = sides()[group.of]
    try:
        found = inspect.getattr_static(ours, name)
    except AttributeError:
        found = getattr(ours, name)  # what the package hands out lazily
    function = inspect.getattr_static(celerys, name, None)
    if inspect.isfunction(function) and inspect.isfunction(inspect.unwrap(found)):
        check_signature(function, inspect.unwrap(found), row)
    else:
        assert row.without == ()


def check_signature(celerys: Callable[..., Any], ours: Callable[..., Any], row: Row) -> None:
    """All of Celery's arguments are taken but those that the row names; those given by position in Celery's order."""
    theirs, own = inspect.signature(celerys).parameters, inspect.signature(ours).parameters
    stars = {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    wanted = [each.name for each in theirs.values() if each.kind not in stars]
    by_position = [each.name for each in own.values() if each.kind is each.POSITIONAL_OR_KEYWORD]
    rest = [each for each in own.values() if each.kind is each.VAR_KEYWORD]
    taken = {*own, *(SendOptions.__annotations__ if rest and "SendOptions" in str(rest[0].annotation) else ())}
    assert set(wanted) - taken == set(row.without)
    common = [name for name in by_position if name in wanted]
    assert common == wanted[: len(common)]
    for name in common:
        default = theirs[name].default
        assert not isinstance(default, (bool, str)) or own[name].default == default


def accepted_options() -> Mapping[str, set[str]]:
    return {
        "app arguments": set(inspect.signature(App).parameters),
        "task options": {*TaskOptions.__annotations__, "base"},
        "send options": set(SendOptions.__annotations__),
    }


@pytest.mark.parametrize("case", [case for case in of_kind("same") if case[0].of in accepted_options()], ids=ids)
def test_an_option_that_is_the_same(case: Case) -> None:
    assert case[2] in accepted_options()[case[0].of]


def test_every_attribute_of_a_task_that_is_an_option_can_be_given() -> None:
    """As the page says above the options of a task."""
    plain = {name for group, row, name in of_kind("same") if group.of == "task" and hasattr(CeleryTask, name)}
    options = {name for name in plain if not callable(getattr(CeleryTask, name))}
    assert options - set(TaskOptions.__annotations__) == {"request"}


NAMED = re.compile(r"`(greenworker(?:\.\w+)+|app\.\w+)\b[^`]*`")


@pytest.mark.parametrize("case", [case for case in of_kind("here") if NAMED.search(case[1].answer)], ids=ids)
def test_what_stands_for_a_name_exists(case: Case) -> None:
    for named in NAMED.findall(case[1].answer):
        first, *rest = named.split(".")
        found: Any = sides()["app"][1] if first == "app" else greenworker
        for part in rest:
            static = inspect.getattr_static(found, part, None)
            found = static if static is not None else getattr(found, part)


@pytest.mark.parametrize("case", of_kind("here", of="exceptions"), ids=ids)
def test_an_exception_under_another_name(case: Case) -> None:
    assert issubclass(getattr(errors, case[1].answer.strip("`")), BaseException)


# What is here under the name has another meaning than Celery's.
OTHERS = {
    ("task", "bind"),  # an option's value
    ("request", "eta"),
    ("request", "expires"),
}


@pytest.mark.parametrize(
    "case", [case for case in of_kind("here", "absent", "later") if case[0].of in sides()], ids=ids
)
def test_what_is_not_the_same_is_not_here(case: Case) -> None:
    """A name that has come meanwhile has to be told."""
    group, _, name = case
    assert (group.of, name) in OTHERS or not hasattr(sides()[group.of][1], name)


# --- the tests that the rows name


@functools.cache
def found_in(stem: str) -> tuple[set[str], str]:
    """The test functions of a file, and its text with that of the support files that it names."""
    (path,) = TESTS.rglob(f"{stem}.py")
    text = path.read_text()
    functions = {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    words = set(re.findall(r"\w+", text))
    supports = [support.read_text() for support in (TESTS / "support").glob("*.py") if support.stem in words]
    return functions, "\n".join([text, *supports])


@pytest.mark.parametrize("case", of_kind("same"), ids=ids)
def test_a_test_shows_it(case: Case) -> None:
    """It exists, and its file has to do with the name."""
    group, row, name = case
    stem, _, function = row.test.partition("::")
    functions, text = found_in(stem)
    assert function in functions
    assert function.startswith("test_")
    if group.of not in {"settings", "flags"}:
        assert re.search(rf"\b{name}\b", text), f"{stem}.py has no word of {name}"


def test_rows_that_are_not_the_same_name_no_test() -> None:
    assert [name for _, row, name in of_kind("here", "absent", "later") if row.test or row.without] == []


# --- the project of the page


def test_each_setting_of_the_example_is_where_the_table_says() -> None:
    """The INI file has the keys that the table gives for ``celeryconfig.py``, and one more: the queue of the route."""
    source = (TUTORIAL / "proj" / "celeryconfig.py").read_text()
    names = [node.targets[0].id for node in ast.parse(source).body if isinstance(node, ast.Assign)]  # type: ignore[attr-defined]
    answers = {name: row for group, row, name in CASES if group.of == "settings"}
    expected = set()
    for name in names:
        row = answers[name]
        if row.kind == "same":
            expected.add((row_of(name).section, row_of(name).key))
        elif name == "task_routes":
            expected.add(("route proj.tasks.send_mail", "queue"))
        else:
            expected.update(SETTING.findall(row.answer))
    ini, section = set(), ""
    for line in (TUTORIAL / "proj.ini").read_text().splitlines():
        section = line.strip("[]") if line.startswith("[") else section
        if "=" in line:
            ini.add((section, line.partition("=")[0].strip()))
    assert ini - expected == {("worker", "queues")}
    assert expected - ini == set()


def test_the_changes_leave_no_word_of_celery() -> None:
    for path in (TUTORIAL / "client.py", TUTORIAL / "proj" / "celery.py", TUTORIAL / "proj" / "tasks.py"):
        source = path.read_text()
        for old, new in read_changes():
            source = source.replace(old, new)
        assert not re.search(r"^\s*(from|import) celery", source, re.MULTILINE), path
