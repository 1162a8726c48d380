"""The greenworker app of the benchmark and of the load tests: an empty task that counts, and one that sleeps."""

from __future__ import annotations

import time

from greenworker import App
from tests.support.bench_meter import Meter

app = App("bench")
meter = Meter.from_environment()


@app.task(name="bench.noop", ignore_result=True)
def noop() -> None:
    meter.tick()


@app.task(name="bench.sleep", ignore_result=True)
def sleep(seconds: float) -> None:
    meter.tick()
    time.sleep(seconds)
