"""The tasks of shared_tasks as a Celery app, for a real Celery worker."""

import os

from celery import Celery

from tests.support.shared_tasks import VISIBILITY_TIMEOUT, define

app = Celery("shared", broker=os.environ["SHARED_BROKER"])
app.conf.update(
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=4,
    broker_transport_options={
        "visibility_timeout": VISIBILITY_TIMEOUT,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # A worker that is killed while it restores holds kombu's mutex until this is over; by default five minutes.
        "unacked_mutex_expire": 5,
    },
)
define(app, "celery")
