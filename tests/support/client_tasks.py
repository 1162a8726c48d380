"""Tasks that a Celery client calls: each notes all that its message said, so that nothing in it can go wrong unseen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from greenworker import App, SoftTimeLimitExceeded
from tests.support.journal import note

app = App("client_tasks")


def iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def note_request(request: Any, **what: Any) -> None:
    """Everything that the message said, as the task sees it."""
    note(
        args=plain(request.args),
        kwargs=plain(request.kwargs),
        eta=iso(request.eta),
        expires=iso(request.expires),
        priority=request.delivery_info["priority"],
        queue=request.queue,
        headers=dict(request.headers),
        timelimit=list(request.timelimit),
        ignore_result=request.ignore_result,
        correlation_id=request.correlation_id,
        reply_to=request.reply_to,
        root_id=request.root_id,
        parent_id=request.parent_id,
        group=request.group,
        origin=request.origin,
        **what,
    )


def plain(value: Any) -> Any:
    """``value`` as JSON can tell it, with a name for each type that JSON has no word for."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value if value is None or isinstance(value, (str, int, float)) else f"{type(value).__name__}: {value}"


@app.task(name="client.echo", bind=True)
def echo(self: Any, *args: Any, **kwargs: Any) -> Sequence[Any]:
    note_request(self.request)
    return [plain(args), plain(kwargs)]


@app.task(name="client.echo_async", bind=True)
async def echo_async(self: Any, *args: Any, **kwargs: Any) -> Sequence[Any]:
    await asyncio.sleep(0)
    note_request(self.request)
    return [plain(args), plain(kwargs)]


@app.task(name="client.fail", bind=True)
def fail(self: Any, text: str) -> None:
    note_request(self.request)
    raise LookupError(text)


@app.task(name="client.flaky", bind=True, max_retries=10, default_retry_delay=0.02)
def flaky(self: Any, failures: int, **kwargs: Any) -> int:
    """Tries again until ``failures`` retries are behind it, the client's own included."""
    note_request(self.request)
    if self.request.retries < failures:
        raise self.retry(exc=LookupError(f"try {self.request.retries}"))
    return int(self.request.retries)


@app.task(name="client.stuck", bind=True)
def stuck(self: Any, catch: bool = False) -> str:
    """Ends by its limits alone."""
    note_request(self.request)
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        if not catch:
            raise
    return "cleaned up"
