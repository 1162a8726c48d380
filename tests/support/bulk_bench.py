"""Messages a second: ``app.bulk`` against a loop of ``delay``. ``python -m tests.support.bulk_bench URL [COUNT]``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from greenworker import App

COUNT = 2_000


def measure(url: str, count: int = COUNT) -> dict[str, float]:
    """Messages a second of each way of sending ``count`` tasks to the broker at ``url``."""
    with App("bulk", broker=url, results="none") as app:

        @app.task(name="bulk.add")
        def add(x: int, y: int) -> int:
            return x + y

        def loop() -> None:
            for number in range(count):
                add.delay(number, 1)

        def bulk() -> None:
            add.bulk((number, 1) for number in range(count))

        add.delay(0, 1)  # connects, declares
        return {"delay": count / _seconds(loop), "bulk": count / _seconds(bulk)}


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    rates = measure(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else COUNT)
    print(f"delay {rates['delay']:,.0f}/s, bulk {rates['bulk']:,.0f}/s, {rates['bulk'] / rates['delay']:.1f} times")
