"""Where state that outlives the process stands, and the URLs that follow from it when nobody gives any."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from greenworker.errors import SettingsError
from greenworker.settings import urls
from greenworker.settings.model import Settings

FOLDER_NAME = "greenworker"
BROKER_FILE = "broker.db"
RESULTS_FILE = "results.db"


def state_directory(settings: Settings, environ: Mapping[str, str] | None = None) -> Path:
    """Return the state folder, absolute; it may not exist yet.

    It is ``[worker] state_directory``, else ``STATE_DIRECTORY`` (systemd's; the first of several), else the user's data
    folder. Raises SettingsError if there is no such user.
    """
    environ = os.environ if environ is None else environ
    given = settings.worker.state_directory or environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given).absolute()
    data_home = environ.get("XDG_DATA_HOME", "")
    if Path(data_home).is_absolute():  # the XDG specification: a relative one is to be ignored
        return Path(data_home) / FOLDER_NAME
    return _home(environ) / ".local" / "share" / FOLDER_NAME


def with_urls(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Return settings with the broker's and the results' URLs filled in where nobody gave them.

    Results are None for ``none``, and where a broker that is not embedded stands alone.
    """
    brokers = settings.broker.url or (urls.sqlite_url(state_directory(settings, environ) / BROKER_FILE),)
    results = settings.results.url
    if results is None and urls.is_embedded(brokers):
        results = urls.sqlite_url(urls.sqlite_path(brokers[0]).parent / RESULTS_FILE)
    return replace(
        settings,
        broker=replace(settings.broker, url=brokers),
        results=replace(settings.results, url=None if results == urls.NO_RESULTS else results),
    )


def _home(environ: Mapping[str, str]) -> Path:
    if Path(environ.get("HOME", "")).is_absolute():
        return Path(environ["HOME"])
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        problem = "no state folder: this user has no home; set [worker] state_directory, STATE_DIRECTORY or HOME"
        raise SettingsError([problem]) from None
