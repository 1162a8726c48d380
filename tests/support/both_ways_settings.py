"""What clients and workers of both kinds are set to where the cases run both ways: the same, in the words of each."""

from __future__ import annotations

from typing import Any

import kombu

from tests.support.worker import Ini

URGENT = "urgent"  # the queue with priorities
QUEUES = ("celery", URGENT)
SERIALIZERS = ("json", "msgpack", "yaml")
MAX_PRIORITY = 9


def celery_settings() -> dict[str, Any]:
    """For a Celery app that sends, and for one whose worker runs."""
    arguments = {"celery": None, URGENT: {"x-max-priority": MAX_PRIORITY}}
    queues = [
        kombu.Queue(name, kombu.Exchange(name), routing_key=name, queue_arguments=arguments[name]) for name in QUEUES
    ]
    return {"task_queues": queues, "accept_content": SERIALIZERS, "result_accept_content": ["json"]}


def our_settings(broker_url: str, results_url: str) -> Ini:
    """For a greenworker App that sends, and for one whose worker runs."""
    return {
        "worker": {"queues": ", ".join(QUEUES), "concurrency": 20},
        "broker": {"url": broker_url, "accept": ", ".join(SERIALIZERS)},
        "results": {"url": results_url},
        f"queue {URGENT}": {"max_priority": MAX_PRIORITY},
    }
