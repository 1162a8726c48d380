"""A Celery client's priorities and groups, over a priority queue of RabbitMQ that both declare alike."""

from __future__ import annotations

import random
from pathlib import Path

import kombu
from celery import group

from tests.support.celery_client import celery_client
from tests.support.journal import Journal
from tests.support.worker import Worker, wait_until

APP = "tests.support.client_tasks:app"
QUEUE = "urgent"


def test_waiting_messages_run_by_priority(rabbitmq_url: str, tmp_path: Path) -> None:
    """All that waits when the worker comes runs in the order of its priority, and as it was sent within one."""
    queue = kombu.Queue(QUEUE, kombu.Exchange(QUEUE), routing_key=QUEUE, queue_arguments={"x-max-priority": 9})
    client = celery_client(rabbitmq_url, task_queues=[queue])
    chance = random.Random(5)
    sent = [(chance.randint(0, 9), number) for number in range(60)]
    for priority, number in sent:
        client.send_task("client.echo", [number], queue=QUEUE, priority=priority)
    journal = Journal(tmp_path / "journal")
    ini = {
        "worker": {"queues": QUEUE, "concurrency": 1, "prefetch_multiplier": 1},
        f"queue {QUEUE}": {"max_priority": 9},
        "broker": {"url": rabbitmq_url},
    }
    with Worker(tmp_path, app=APP, ini=ini, environ=journal.environ) as worker:
        wait_until(lambda: len(journal.lines()) == len(sent), 20.0, "all run")
        assert worker.stop() == 0
    ran = [(line["priority"], line["args"][0]) for line in journal.lines()]
    assert ran == sorted(sent, key=lambda item: (-item[0], item[1]))
    client.close()


def test_groups_run_and_share_their_id(rabbitmq_url: str, tmp_path: Path) -> None:
    client = celery_client(rabbitmq_url)
    journal = Journal(tmp_path / "journal")
    with Worker(tmp_path, app=APP, ini={"broker": {"url": rabbitmq_url}}, environ=journal.environ) as worker:
        called = group(client.signature("client.echo", args=[number]) for number in range(20)).apply_async()
        wait_until(lambda: len(journal.lines()) == 20, 15.0, "all run")
        assert worker.stop() == 0
    assert {line["id"] for line in journal.lines()} == {result.id for result in called.results}
    assert {line["group"] for line in journal.lines()} == {called.id}
    assert sorted(line["args"][0] for line in journal.lines()) == list(range(20))
    client.close()
