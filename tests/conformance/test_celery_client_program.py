"""A user's own Celery program, with no word about greenworker in it, is served by a greenworker worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.both_ways_settings import our_settings
from tests.support.journal import Journal
from tests.support.worker import REPOSITORY, Worker

PROGRAM = REPOSITORY / "tests/support/celery_client_program.py"
COUNT = 1_000
KINDS = 7


@pytest.mark.parametrize("broker", [pytest.param("rabbitmq", marks=pytest.mark.full), "redis"])
def test_a_celery_program_gets_all_its_results(
    broker: str, redis_url: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """It checks them itself; that each task ran as often as it should is counted here."""
    broker_url = request.getfixturevalue("rabbitmq_url") if broker == "rabbitmq" else redis_url
    journal = Journal(tmp_path / "journal")
    ini = our_settings(broker_url, redis_url)
    with Worker(tmp_path, app="tests.support.both_ways_ours:app", ini=ini, environ=journal.environ):
        done = run_program(broker_url, redis_url)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == f"all={COUNT}"
    assert len(done.stdout.split()) == KINDS + 1
    runs = [(line["id"], line["retries"]) for line in journal.lines()]
    assert len(runs) == len(set(runs)), "a task ran twice"


def test_it_knows_nothing_of_greenworker() -> None:
    assert "greenworker" not in PROGRAM.read_text()


def run_program(broker_url: str, results_url: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, PROGRAM, str(COUNT)],
        env={**environ, "BROKER_URL": broker_url, "RESULT_BACKEND": results_url},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
