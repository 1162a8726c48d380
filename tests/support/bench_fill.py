"""Puts many task messages on a queue quickly, in confirmed batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from greenworker.app.app import App
from greenworker.broker.delivery import QueueSpec
from greenworker.broker.publisher import Outgoing
from greenworker.protocol.message import TaskMessage, encode_task
from greenworker.settings import load_settings

BATCH = 1_000


def client(url: str) -> App:
    """An App that only sends, to the broker at ``url``."""
    return App("client", settings=load_settings(overrides={("broker", "url"): url}, environ={}))


def fill(
    app: App,
    task: str,
    count: int,
    *,
    args: Sequence[Any] = (),
    countdown: float | None = None,
    priority: int | None = None,
    queue: QueueSpec | None = None,
) -> None:
    """Publish ``count`` calls of ``task``; returns when all are on ``queue`` (None: the queue "celery")."""
    spec = queue or QueueSpec("celery")
    eta = None if countdown is None else datetime.now(UTC) + timedelta(seconds=countdown)
    message = TaskMessage(id="", task=task, args=list(args), eta=eta, priority=priority, origin="gen1@client")
    for start in range(0, count, BATCH):
        ids = [str(uuid4()) for _ in range(min(BATCH, count - start))]
        app.publisher.publish(
            [Outgoing(encode_task(replace(message, id=id)), spec.name, queue=spec) for id in ids], timeout=60.0
        )
