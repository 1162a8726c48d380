"""Tasks of the project: sums, and a mail that is tried again when the server is busy."""

import os
from pathlib import Path

from celery import Task
from celery.exceptions import Reject
from celery.utils.log import get_task_logger

from .celery import app

logger = get_task_logger(__name__)


class Noted(Task):
    """Notes how each of its tasks ended."""

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        with Path(os.environ["NOTES"]).open("a") as notes:
            notes.write(f"{self.name} {status} {retval!r}\n")


class ServerBusyError(Exception):
    pass


@app.task
def add(x, y):
    return x + y


@app.task
def mul(x, y):
    return x * y


@app.task
def xsum(numbers):
    return sum(numbers)


@app.task(base=Noted, bind=True, max_retries=3)
def send_mail(self, to, busy_times=0):
    if "@" not in to:
        raise Reject(f"{to} is no address")
    queue = self.request.delivery_info["routing_key"]
    logger.info("mail to %s, try %s", to, self.request.retries)
    try:
        if self.request.retries < busy_times:
            raise ServerBusyError("451 try again later")
    except ServerBusyError as exc:
        raise self.retry(exc=exc, countdown=0.1)
    return [to, self.request.retries, queue]


@app.task(base=Noted, autoretry_for=(ConnectionError,), retry_backoff=0.05, max_retries=1)
def fetch(address):
    raise ConnectionError(f"no answer from {address}")
