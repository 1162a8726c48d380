"""Fixtures for the tests of apps: one whose messages are recorded."""

from __future__ import annotations

import pytest

from greenworker import App
from tests.support.recording import Project, RecordingPublisher


@pytest.fixture
def project() -> Project:
    return Project()


@pytest.fixture
def app(project: Project) -> App:
    return project.app


@pytest.fixture
def publisher(project: Project) -> RecordingPublisher:
    return project.publisher
