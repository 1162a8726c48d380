"""Pause: the queues are let go of once, and taken up again once, over any number of connections."""

from __future__ import annotations

from typing import Any

import pytest

from greenworker.broker.delivery import QueueSpec
from greenworker.consumer.pause import Pause


class Source:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def cancel_queue(self, name: str) -> None:
        self.asked.append(f"-{name}")

    def add_queue(self, queue: QueueSpec) -> None:
        self.asked.append(f"+{queue.name}")


class Scene:
    def __init__(self) -> None:
        self.full = False
        self.source: Any = Source()
        self.pause = Pause({name: QueueSpec(name) for name in ("a", "b")}, lambda: self.full)

    def turns(self, *full: bool) -> list[str]:
        """One turn of the loop for each; returns what was asked of the source in them."""
        before = len(self.source.asked)
        for self.full in full:
            self.pause.apply(self.source)
        asked: list[str] = self.source.asked[before:]
        return asked


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_nothing_is_asked_while_there_is_room(scene: Scene) -> None:
    assert scene.turns(False, False) == []
    assert not scene.pause.paused


def test_it_pauses_once_and_goes_on_once(scene: Scene) -> None:
    assert scene.turns(True, True, True) == ["-a", "-b"]
    assert scene.pause.paused
    assert scene.turns(False, False) == ["+a", "+b"]
    assert not scene.pause.paused
    assert scene.turns(True) == ["-a", "-b"]


def test_a_new_connection_consumes_and_is_paused_if_there_is_still_no_room(scene: Scene) -> None:
    scene.turns(True)
    scene.pause.begin()
    assert scene.turns(True) == ["-a", "-b"]
    scene.pause.begin()
    assert scene.turns(False) == []
