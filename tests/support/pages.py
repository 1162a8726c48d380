"""Pages of docs/ whose examples are run: their blocks of code, and a project made of them, in a pytest of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from tests.support.worker import REPOSITORY


def blocks(page: str, language: str = "python") -> list[str]:
    """The blocks of code in that language on ``docs/PAGE``, in order."""
    text = (REPOSITORY / "docs" / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def make_project(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, modules: Mapping[str, str], pytest_ini: str
) -> None:
    """The package ``shop`` with these modules. The plugin is named, as this tree need not be what is installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}:{pytester.path}")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p greenworker.testing.plugin")
    monkeypatch.setenv("GREENWORKER_BROKER_URL", "amqp://nowhere.invalid//")  # what no test may reach for
    package = pytester.mkpydir("shop")
    for name, code in modules.items():
        (package / f"{name}.py").write_text(code)
    pytester.makeini(pytest_ini)


def run_tests(project: pytest.Pytester, code: str, **outcomes: int) -> str:
    """Run ``code`` as a test file of the project; what pytest printed. Fails unless these are the outcomes."""
    project.makepyfile(code)
    result = project.runpytest_subprocess("-q", timeout=40.0)
    result.assert_outcomes(**outcomes)
    return result.stdout.str()
