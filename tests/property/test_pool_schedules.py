"""Whatever is submitted, thrown, cancelled, grown and shrunk, in any order: see tests/support/pool_schedules.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.greenproc import GREEN_POOLS, ROOT


@pytest.mark.parametrize("pool", GREEN_POOLS)
def test_no_schedule_loses_a_slot_or_hits_the_wrong_job(pool: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.pool_schedules", pool, "150"],
        cwd=ROOT, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "passed"
