"""The tasks of signal_tasks as a Celery app, for a real Celery worker."""

import os

from celery import Celery, current_task, exceptions, signals

from tests.support.signal_tasks import define, listen


def _current() -> str | None:
    return current_task.request.id if current_task else None


app = Celery("signals", broker=os.environ["SIGNALS_BROKER"])
app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)
define(app, exceptions)
listen(signals, _current)
