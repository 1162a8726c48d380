"""The tasks of both_ways_tasks as a Celery app, for a real Celery worker; its URLs come from the environment."""

import os

import celery.exceptions
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from tests.support.both_ways_settings import celery_settings
from tests.support.both_ways_tasks import define

app = Celery("shop", broker=os.environ["SHOP_BROKER"], backend=os.environ["SHOP_BACKEND"])
app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True, **celery_settings())
define(app, celery.exceptions, SoftTimeLimitExceeded)
