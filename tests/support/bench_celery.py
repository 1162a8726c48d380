"""The same empty task for a Celery worker: ``celery -A tests.support.bench_celery worker -P gevent``."""

from __future__ import annotations

import os

from celery import Celery

from tests.support.bench_meter import Meter

app = Celery("bench", broker=os.environ["BENCH_URL"])
app.conf.task_ignore_result = True
meter = Meter.from_environment()


@app.task(name="bench.noop")  # type: ignore[untyped-decorator]  # Celery is not typed
def noop() -> None:
    meter.tick()
