"""The fixtures. What they are made of is imported when a test asks for one: loading the plugin loads pytest alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from greenworker import App
    from greenworker.testing.enqueued import Enqueued
    from greenworker.testing.worker import InProcessWorker

INI_OPTION = "greenworker_app"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The project's App, for all its tests."""
    parser.addini(INI_OPTION, "the App whose tasks are tested, as module:attribute such as shop.tasks:app")


@pytest.fixture
def greenworker_app(pytestconfig: pytest.Config) -> App:
    """The App under test: what the ini option ``greenworker_app`` names. A project may override this fixture."""
    from greenworker.app.loader import load_app

    name = pytestconfig.getini(INI_OPTION)
    if not name:
        raise pytest.UsageError(
            f"which App is tested? Expected {INI_OPTION} = shop.tasks:app in pytest's configuration, "
            f"or a fixture greenworker_app that returns it"
        )
    return load_app(name)


@pytest.fixture
def eager_app(greenworker_app: App, tmp_path: Path) -> Iterator[App]:
    """The App, whose tasks run where they are sent, at once; one that fails raises there."""
    from greenworker.testing.settings import eager_settings

    with greenworker_app.lent(eager_settings(greenworker_app.settings, tmp_path)):
        yield greenworker_app


@pytest.fixture
def greenworker_worker(greenworker_app: App, tmp_path: Path) -> Iterator[InProcessWorker]:
    """A worker in this process that runs the App's tasks, on a broker and a results store of its own."""
    from greenworker.testing.settings import worker_settings
    from greenworker.testing.worker import InProcessWorker

    settings = worker_settings(greenworker_app, tmp_path)
    with greenworker_app.lent(settings), InProcessWorker(greenworker_app, settings) as worker:
        yield worker


@pytest.fixture
def assert_enqueued(greenworker_app: App, tmp_path: Path) -> Iterator[Enqueued]:
    """Keeps what the App sends and does not send it: ``assert_enqueued(task, args=..., kwargs=..., count=...)``."""
    from greenworker.testing.enqueued import Enqueued
    from greenworker.testing.settings import embedded_settings

    enqueued = Enqueued()
    with greenworker_app.lent(embedded_settings(greenworker_app.settings, tmp_path)):
        greenworker_app.use_publisher(enqueued.publisher)
        yield enqueued
