"""Tasks of a small shop. Start a worker in this folder's parent: ``greenworker worker -A shop.tasks:app``."""

from __future__ import annotations

import urllib.request
from typing import Any

from greenworker import App, Task

app = App("shop")


@app.task(name="shop.add")
def add(x: float, y: float, z: float = 0) -> float:
    """Add two or three numbers."""
    return x + y + z


@app.task(name="shop.fetch", autoretry_for=(OSError,), retry_backoff=True, max_retries=5, time_limit=30)
def fetch(url: str) -> int:
    """Fetch a page and return its size in bytes; a network error is tried again after 1, 2, 4, ... seconds at most."""
    with urllib.request.urlopen(url, timeout=20) as response:
        return len(response.read())


@app.task(name="shop.ship", bind=True, max_retries=3, default_retry_delay=1, acks_late=True)
def ship(self: Task, order: int) -> dict[str, Any]:
    """Ship an order; every third one is not packed yet at the first try, so the task asks to be run again."""
    if order % 3 == 0 and self.request.retries == 0:
        raise self.retry(exc=LookupError(f"order {order} is not packed yet"))
    self.update_state(state="SHIPPING", meta={"order": order})
    return {"order": order, "tries": self.request.retries + 1}


@app.task(name="shop.greet")
async def greet(name: str) -> str:
    """Greet a customer. Tasks may be coroutines."""
    return f"Hello, {name}"
