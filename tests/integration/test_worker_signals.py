"""Receivers that raise, on a real worker: they are logged, and cost neither task nor message nor worker.

What each signal carries is compared with a real Celery worker's in tests/conformance/test_celery_signals.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from greenworker import App
from greenworker.errors import NotRegistered
from greenworker.settings import load_settings
from tests.support.worker import Worker

APP = "tests.support.broken_signal_tasks:app"
ONCE_A_RUN = ("task_received", "task_prerun", "task_postrun")


@pytest.mark.parametrize("pool", ["gevent", "eventlet", "threads", "solo"])
def test_receivers_that_raise_stop_nothing(pool: str, tmp_path: Path) -> None:
    overrides = {("broker", "url"): f"sqlite:///{tmp_path}/state/broker.db"}
    with App("client", settings=load_settings(overrides=overrides, environ={})) as client:
        worker = Worker(tmp_path, app=APP, ini={"worker": {"pool": pool, "concurrency": 4}}).start()
        try:
            assert client.send_task("broken.add", [1, 2]).get(20.0) == 3
            with pytest.raises(NotRegistered):
                client.send_task("broken.missing").get(20.0)
            assert worker.stop() == 0
        finally:
            worker.kill()
    output = worker.output
    for name in (*ONCE_A_RUN, "task_success", "task_retry", "task_unknown", "before_task_publish", "worker_shutdown"):
        assert f"receiver of {name}" in output
    assert "goes back to queue" not in output
