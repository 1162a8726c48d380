"""A Celery client's ETAs on quorum queues: it sends to the delay exchanges, which the worker declares and binds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import kombu
import pytest

from tests.support.celery_client import celery_client
from tests.support.journal import Journal
from tests.support.worker import Worker, wait_until

APP = "tests.support.client_tasks:app"


@pytest.mark.parametrize(("exchange_type", "routing_key"), [("topic", "orders.new"), ("direct", "mail")])
def test_an_eta_on_a_quorum_queue_is_kept(
    exchange_type: str, routing_key: str, rabbitmq_url: str, tmp_path: Path
) -> None:
    """By the broker where the exchange lets it; over a direct exchange the worker waits. It runs once, in time."""
    exchange = kombu.Exchange("shop", type=exchange_type)
    arguments = {"x-queue-type": "quorum"}
    queue = kombu.Queue("mail", exchange, routing_key=routing_key, queue_arguments=arguments)
    client = celery_client(rabbitmq_url, task_queues=[queue], task_default_queue="mail")
    journal = Journal(tmp_path / "journal")
    ini = {
        "worker": {"queues": "mail"},
        "broker": {"url": rabbitmq_url},
        "queue mail": {
            "type": "quorum",
            "exchange": "shop",
            "exchange_type": exchange_type,
            "routing_key": routing_key,
        },
    }
    with Worker(tmp_path, app=APP, ini=ini, environ=journal.environ) as worker:
        due = datetime.now(UTC) + timedelta(seconds=3)
        delayed = client.send_task("client.echo", ["later"], eta=due, queue="mail").id
        plain = client.send_task("client.echo", ["now"], queue="mail").id
        wait_until(lambda: journal.of(plain), 10.0, "the plain task")
        assert not journal.of(delayed), "it ran at once"
        wait_until(lambda: journal.of(delayed), 15.0, "the delayed task")
        assert datetime.now(UTC) >= due
        assert worker.stop() == 0
    assert len(journal.of(delayed)) == 1
    client.close()
