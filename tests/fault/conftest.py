"""Fixtures of the fault tests: the scene of one test, on a broker of a kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.fault_scenes import Scene, sqlite_url

MakeScene = Callable[..., Scene]


@pytest.fixture
def make_scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeScene]:
    """Makes the test's scene on ``classic`` or ``quorum`` queues of RabbitMQ, or on ``sqlite``."""
    scenes: list[Scene] = []

    def make(kind: str, *, results: bool | str = False, **sections: Mapping[str, object]) -> Scene:
        if kind == "sqlite":
            url = sqlite_url(tmp_path)
        else:
            url = request.getfixturevalue("rabbitmq_url")
            sections = {**sections, "queue celery": {"type": kind}}
        scenes.append(Scene(tmp_path, url, results=results, **sections))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.close()
