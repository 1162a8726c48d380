"""The tasks of result_tasks as a Celery app, for a real Celery worker; its URLs come from the environment."""

from __future__ import annotations

import os

from celery import Celery

from tests.support.result_tasks import define

app = Celery("results", broker=os.environ["RESULT_BROKER"], backend=os.environ["RESULT_BACKEND"])
app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)
define(app)
