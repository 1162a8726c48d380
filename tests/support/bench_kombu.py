"""The least a kombu user can write: take a message, spawn a greenlet, ack. No task protocol, no limits, no results."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import os
from typing import Any

import gevent
from kombu import Connection, Queue

from tests.support.bench_meter import Meter

meter = Meter.from_environment()


def run(message: Any) -> None:
    meter.tick()
    message.ack()


def main() -> None:
    """Consume until killed."""
    with Connection(os.environ["BENCH_URL"]) as connection:
        consumer = connection.Consumer(
            Queue("celery"), prefetch_count=2_000, on_message=lambda message: gevent.spawn(run, message)
        )
        with consumer:
            while True:
                connection.drain_events(timeout=60)


if __name__ == "__main__":
    main()
