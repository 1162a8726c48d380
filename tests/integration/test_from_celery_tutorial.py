"""A first project of Celery's (tests/support/tutorial), as it is and moved by what docs/from-celery.md says.

The moved one is made by the changes of the page and run by its command; its client prints what the old one's prints,
and its tasks note what the old ones note, on every broker.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.from_celery import TUTORIAL, page_text, read_changes
from tests.support.celery_worker import CeleryWorker
from tests.support.worker import Worker, environment, wait_until

PRINTED = """\
add 8
mul 16
xsum 6
here 4 5
mail ['ann@example.org', 2, 'mail'] SUCCESS True
fetch no answer from example.org FAILURE True
fetch ConnectionError('no answer from example.org') True
linked 4
signature 5 2
"""
NOTED = [
    "proj.tasks.fetch FAILURE ConnectionError('no answer from example.org')",
    "proj.tasks.send_mail SUCCESS ['ann@example.org', 2, 'mail']",
]


def command(pattern: str) -> list[str]:
    """The arguments in the page's one command that begins with ``pattern``."""
    (found,) = re.findall(rf"^    {pattern} (.+)$", page_text(), re.MULTILINE)
    return shlex.split(found)


def project(folder: Path, change: Callable[[str], str] = str) -> None:
    """Write the project to ``folder``, each module changed by ``change``."""
    for path in TUTORIAL.rglob("*"):
        if path.suffix in {".py", ".ini"}:
            written = folder / path.relative_to(TUTORIAL)
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_text(change(path.read_text()) if path.suffix == ".py" else path.read_text())


def moved(source: str) -> str:
    for old, new in read_changes():
        source = source.replace(old, new)
    return source


@contextlib.contextmanager
def as_it_is(folder: Path, broker: str, results: str) -> Iterator[dict[str, str]]:
    """The project on Celery; what its client needs in its environment."""
    project(folder)
    environ = {
        "PYTHONPATH": str(folder),
        "NOTES": str(folder / "notes"),
        "CELERY_BROKER_URL": broker,
        "CELERY_RESULT_BACKEND": results,
    }
    with CeleryWorker(folder, "proj.celery", environ, command("celery -A proj.celery worker")):
        yield {**os.environ, **environ}


@contextlib.contextmanager
def as_the_page_says(folder: Path, broker: str, results: str) -> Iterator[dict[str, str]]:
    """The project on greenworker; what its client needs in its environment."""
    project(folder, moved)
    (folder / "proj" / "celeryconfig.py").unlink()
    environ = {
        "NOTES": str(folder / "notes"),
        "GREENWORKER_BROKER_URL": broker,
        "GREENWORKER_RESULTS_URL": results,
        "GREENWORKER_CONFIG": str(folder / "proj.ini"),
    }
    with Worker(folder, arguments=command("greenworker worker"), environ=environ) as worker:
        yield environment(folder, environ)
        assert worker.stop() == 0


def run_client(folder: Path, environ: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "client.py"],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("serving", "broker"),
    [
        pytest.param(as_it_is, "redis", id="celery-redis"),
        pytest.param(as_the_page_says, "redis", id="greenworker-redis"),
        pytest.param(as_the_page_says, "rabbitmq", id="greenworker-rabbitmq", marks=pytest.mark.full),
        pytest.param(as_the_page_says, "embedded", id="greenworker-embedded"),
    ],
)
def test_the_project_does_what_it_did(
    serving: Callable[..., contextlib.AbstractContextManager[dict[str, str]]],
    broker: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if broker == "embedded":
        urls = f"sqlite:///{tmp_path}/broker.db", f"sqlite:///{tmp_path}/results.db"
    else:
        urls = request.getfixturevalue(f"{broker}_url"), request.getfixturevalue("redis_url")
    with serving(tmp_path, *urls) as environ:
        assert run_client(tmp_path, environ) == PRINTED
        notes = tmp_path / "notes"
        wait_until(lambda: notes.exists() and len(notes.read_text().splitlines()) == len(NOTED), 10.0, "the notes")
        assert sorted(notes.read_text().splitlines()) == NOTED
