"""The tasks of link_tasks as a Celery app, for a real Celery worker; its URLs come from the environment."""

import os

from celery import Celery

from tests.support.link_tasks import define

app = Celery("links", broker=os.environ["LINK_BROKER"], backend=os.environ["LINK_BACKEND"])
app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)
define(app)
