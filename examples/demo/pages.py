"""The demo's web server: every page takes its time, and each visit is counted. Holds thousands of connections at once.

Pages: ``GET /page/NUMBER`` answers after the delay; ``GET /visits`` answers at once with what was seen, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter

BACKLOG = 4096  # a thousand clients knock within a few milliseconds
READ_TIMEOUT = 30.0
PAGE = b"<!doctype html><title>A slow page</title><p>It was worth the wait.</p>" + b" " * 2_000


class Pages:
    """The server's state; one event loop reads and writes it."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.visits: Counter[str] = Counter()
        self.answered = 0
        self.in_flight = 0
        self.peak = 0
        self.first_at: float | None = None
        self.last_at: float | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of one connection."""
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), READ_TIMEOUT)
            status, body = await self.answer(head.decode("latin-1"))
            length = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(f"HTTP/1.1 {status}\r\n{length}".encode() + body)
            await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, ConnectionError):
            pass  # the client went away, or never said what it wants: there is nobody to tell
        finally:
            writer.close()

    async def answer(self, head: str) -> tuple[str, bytes]:
        """The status and the body for a request's head."""
        request, *headers = head.split("\r\n")
        path = request.split(" ")[1] if request.count(" ") == 2 else ""
        if path == "/visits":
            return "200 OK", json.dumps(self.summary()).encode()
        if not path.startswith("/page/"):
            return "404 Not Found", b"pages are /page/NUMBER\n"
        now = time.monotonic()
        self.first_at = self.first_at or now
        task = next((line.partition(": ")[2] for line in headers if line.lower().startswith("x-task: ")), "no task")
        self.visits[task] += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        await asyncio.sleep(self.delay)
        self.in_flight -= 1
        self.answered += 1
        self.last_at = time.monotonic()
        return "200 OK", PAGE

    def summary(self) -> dict[str, object]:
        """What was seen so far: visits by task are told as how many tasks came how often."""
        seconds = (self.last_at or 0.0) - (self.first_at or 0.0)
        repeated = {task: count for task, count in self.visits.items() if count > 1}
        return {
            "answered": self.answered,
            "in_flight": self.in_flight,
            "peak": self.peak,
            "tasks": len(self.visits),
            "repeated": repeated,
            "seconds": seconds,
        }


async def main() -> None:
    """Serve until the process is told to end; prints the port first."""
    parser = argparse.ArgumentParser(description="Serve slow pages on a free port of 127.0.0.1.")
    parser.add_argument("--delay", type=float, default=1.0, help="seconds that a page takes (default: 1)")
    pages = Pages(parser.parse_args().delay)
    server = await asyncio.start_server(pages.serve, "127.0.0.1", 0, backlog=BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
