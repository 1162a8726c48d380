"""The pytest plugin, as a project uses it: each test runs pytest on a small project, in a process of its own."""

from __future__ import annotations

import configparser
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import blocks, make_project
from tests.support.pages import run_tests as run
from tests.support.worker import REPOSITORY

pytest_plugins = ["pytester"]

PAGE = "testing.md"
EXAMPLES = [code for code in blocks(PAGE) if "def test_" in code]
PROJECT = next(code for code in blocks(PAGE) if "App(" in code)
CONFTEST = next(code for code in blocks(PAGE) if "def greenworker_app" in code)
INI = blocks(PAGE, "ini")[0]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The shop of docs/testing.md."""
    make_project(pytester, monkeypatch, {"tasks": PROJECT}, INI)
    return pytester


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda code: re.findall(r"def (test_\w+)", code)[0])
def test_examples_of_the_page(project: pytest.Pytester, example: str) -> None:
    run(project, example, passed=example.count("def test_"))


def test_a_fixture_of_the_projects_own_names_the_app(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\n")
    project.makeconftest(CONFTEST)
    run(project, EXAMPLES[0], passed=1)


def test_without_either_it_says_what_to_do(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\n")
    assert "greenworker_app = shop.tasks:app" in run(project, EXAMPLES[0], errors=1)


def test_what_was_sent_is_listed_when_it_fails(project: pytest.Pytester) -> None:
    output = run(
        project,
        """
        from shop.tasks import add, send_mail

        def test_it(assert_enqueued):
            add.delay(1, (2, 3))
            assert_enqueued(add, args=(1, (2, 3)), count=1)
            assert_enqueued("shop.tasks.send_mail", count=0)
            assert_enqueued(send_mail, kwargs={"subject": "Hello"})
        """,
        failed=1,
    )
    assert "expected shop.tasks.send_mail(..., subject='Hello') to be sent at least once" in output
    assert "shop.tasks.add(1, [2, 3])" in output


@pytest.mark.parametrize(
    "assertion", ["add, args=[1]", "add, kwargs={'x': 1}", "add, count=2", "send_mail", "add, args=[2, 1], count=1"]
)
def test_the_assertion_fails_for_what_was_not_sent(project: pytest.Pytester, assertion: str) -> None:
    code = "from shop.tasks import add, send_mail\n\ndef test_it(assert_enqueued):\n    add.delay(1, 2)\n"
    run(project, f"{code}    assert_enqueued({assertion})\n", failed=1)


def test_the_app_is_as_before_afterwards(project: pytest.Pytester) -> None:
    """Its own settings, and none of the connections or stores of the fixtures."""
    run(
        project,
        """
        from greenworker import App
        from shop.tasks import add, app

        def settings_of_its_own():
            return app.settings.broker.url == ("amqp://nowhere.invalid//",) and not app.settings.task.always_eager

        def test_worker(greenworker_worker):
            assert add.delay(1, 2).get(timeout=5) == 3
            assert not settings_of_its_own()

        def test_after_worker():
            assert settings_of_its_own()
            assert app.run_coroutine is App("another", set_as_current=False).run_coroutine

        def test_eager(eager_app):
            assert add.delay(1, 2).get() == 3

        def test_after_eager():
            assert settings_of_its_own()

        def test_recorded(assert_enqueued):
            add.delay(1, 2)
            assert len(assert_enqueued.messages) == 1
            assert_enqueued.clear()
            assert_enqueued(add, count=0)

        def test_after_recorded():
            assert settings_of_its_own()
        """,
        passed=6,
    )


def test_the_worker_takes_every_queue_that_is_named(project: pytest.Pytester) -> None:
    run(
        project,
        """
        import pytest
        from greenworker import App

        app = App("queues")

        @app.task(queue="mail")
        def own():
            return "own"

        @app.task(bind=True, default_retry_delay=0)
        def retried(self):
            if self.request.retries < 2:
                raise self.retry()
            return self.request.retries

        @pytest.fixture
        def greenworker_app():
            return app

        def test_it(greenworker_worker):
            assert own.delay().get(timeout=5) == "own"
            assert retried.delay().get(timeout=5) == 2
        """,
        passed=1,
    )


def test_a_worker_that_cannot_start_fails_the_test_and_says_why(project: pytest.Pytester) -> None:
    output = run(
        project,
        """
        import os
        import pytest
        from dataclasses import replace
        from greenworker import App
        from greenworker.settings import Settings

        @pytest.fixture
        def greenworker_app():
            settings = Settings()
            return App("broken", settings=replace(settings, worker=replace(settings.worker, release=("no:where",))))

        def test_it(greenworker_worker):
            pass
        """,
        errors=1,
    )
    assert "the in-process worker did not start" in output
    assert "[worker] release: no:where: ModuleNotFoundError" in output


def test_loading_the_plugin_imports_and_patches_nothing(project: pytest.Pytester) -> None:
    run(
        project,
        """
        import socket, sys, threading

        def test_it():
            loaded = {"gevent", "eventlet", "kombu", "greenworker.app", "greenworker.settings"} & set(sys.modules)
            assert not loaded
            assert "greenworker.testing.plugin" in sys.modules

        def test_with_a_worker(greenworker_worker):
            assert not {"gevent", "eventlet"} & set(sys.modules)
            assert threading.Thread.__module__ == "threading" and socket.socket.__module__ == "socket"
        """,
        passed=2,
    )


def test_without_pytest_it_says_what_is_missing(tmp_path: Path) -> None:
    code = "import sys; sys.modules['pytest'] = None; import greenworker.testing"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=30.0, check=False
    )
    assert "ImportError: greenworker.testing is a plugin of pytest, which is not installed: pip install" in done.stderr


def test_the_entry_point_names_the_plugin() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    entry = setup["options.entry_points"]["pytest11"].strip()
    assert entry == "greenworker = greenworker.testing.plugin"
    assert callable(importlib.import_module("greenworker.testing.plugin").pytest_addoption)
