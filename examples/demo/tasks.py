"""The demo's app: one task, written as if it blocked."""

from __future__ import annotations

from http.client import HTTPConnection

from greenworker import App

app = App("demo")


@app.task(bind=True)
def fetch(self, port: int, number: int) -> int:
    """Fetch page ``number`` from the server on ``port``; returns its length in bytes.

    It shows its own id, so that the server can tell a task that ran twice.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", f"/page/{number}", headers={"X-Task": self.request.id})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"page {number}: expected status 200, got {response.status} {response.reason}")
        return len(response.read())
    finally:
        connection.close()
