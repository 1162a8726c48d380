"""What tests of executing bodies share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from greenworker.execution.coroutines import CoroutineRunner
from greenworker.green.greens import library


@pytest.fixture(scope="module")
def coroutines() -> Iterator[CoroutineRunner]:
    runner = CoroutineRunner(library("threads"))
    yield runner
    runner.stop()
