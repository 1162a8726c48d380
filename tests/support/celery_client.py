"""A real Celery client, as the projects have that greenworker serves: it sends messages and reads results."""

from __future__ import annotations

from celery import Celery


def celery_client(broker_url: str, result_backend: str | None = None, **settings: object) -> Celery:
    """A Celery app that only sends. ``settings`` are Celery's own, lower case (``task_protocol=1``, ...).

    Nothing in it waits for ever: a broker that is away is an error after a few seconds, as a test needs it.
    """
    app = Celery("client", broker=broker_url, backend=result_backend, set_as_current=False)
    app.conf.update(
        broker_connection_timeout=5.0,
        broker_connection_retry=False,
        broker_pool_limit=1,
        broker_transport_options={"max_retries": 3, "confirm_publish": True},
        task_publish_retry_policy={"max_retries": 3, "interval_start": 0.0, "interval_step": 0.2, "interval_max": 0.5},
        task_ignore_result=result_backend is None,
    )
    app.conf.update(settings)
    return app
