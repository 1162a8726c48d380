"""The state folder, and the URLs that follow from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from greenworker.settings.load import load_settings
from greenworker.settings.model import Settings, WorkerSettings
from greenworker.settings.state import state_directory
from greenworker.settings.urls import sqlite_path


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"STATE_DIRECTORY": "/var/lib/gw", "XDG_DATA_HOME": "/x", "HOME": "/h"}, "/var/lib/gw"),
        ({"STATE_DIRECTORY": "/var/lib/gw:/var/lib/other"}, "/var/lib/gw"),
        ({"XDG_DATA_HOME": "/x", "HOME": "/h"}, "/x/greenworker"),
        ({"XDG_DATA_HOME": "relative", "HOME": "/h"}, "/h/.local/share/greenworker"),
        ({"HOME": "/h"}, "/h/.local/share/greenworker"),
    ],
)
def test_where_the_state_folder_is(environ: dict[str, str], folder: str) -> None:
    assert state_directory(Settings(), environ) == Path(folder)
    own = replace(Settings(), worker=WorkerSettings(state_directory="/srv/own"))
    assert state_directory(own, environ) == Path("/srv/own")


def test_without_home_the_user_database_knows() -> None:
    assert state_directory(Settings(), {}).is_absolute()


@pytest.mark.parametrize(
    ("given", "broker", "results"),
    [
        ({}, "sqlite:////s/broker.db", "sqlite:////s/results.db"),
        ({("broker", "url"): "sqlite:////q/b.db"}, "sqlite:////q/b.db", "sqlite:////q/results.db"),
        ({("broker", "url"): "amqp://h"}, "amqp://h", None),
        ({("results", "url"): "none"}, "sqlite:////s/broker.db", None),
        ({("broker", "url"): "amqp://h", ("results", "url"): "sqlite:////r/r.db"}, "amqp://h", "sqlite:////r/r.db"),
        ({("worker", "state_directory"): "/own"}, "sqlite:////own/broker.db", "sqlite:////own/results.db"),
    ],
)
def test_urls_are_filled_in(given: dict[tuple[str, str], str], broker: str, results: str | None) -> None:
    settings = load_settings(overrides=given, environ={"STATE_DIRECTORY": "/s"})
    assert settings.broker.url == (broker,)
    assert settings.results.url == results


def test_a_folder_with_characters_that_mean_something_in_urls() -> None:
    url = load_settings(environ={"STATE_DIRECTORY": "/a b?c#d%41"}).broker.url[0]
    assert not set(url) & set(" ?#")
    assert sqlite_path(url) == Path("/a b?c#d%41/broker.db")
