"""Counts the runs of an empty task inside a worker, whichever worker it is, and reports what they cost.

The measured stretch begins after BENCH_WARMUP runs and ends BENCH_TASKS runs later; then the report (JSON: seconds,
cpu_seconds, rss_bytes) is written to the file BENCH_REPORT. Needs nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


class Meter:
    """``tick`` is called once a run, by one thread at a time."""

    def __init__(self, warmup: int, tasks: int, report: Path) -> None:
        self._warmup = warmup
        self._last = warmup + tasks
        self._report = report
        self._count = 0
        self._began = (0.0, 0.0)

    @classmethod
    def from_environment(cls) -> Meter:
        """The meter that the environment asks for; one that never reports where it asks for none."""
        return cls(
            int(os.environ.get("BENCH_WARMUP", "0")),
            int(os.environ.get("BENCH_TASKS", "-1")),
            Path(os.environ.get("BENCH_REPORT", os.devnull)),
        )

    def tick(self) -> None:
        """One run."""
        self._count += 1
        if self._count == self._warmup:
            self._began = time.perf_counter(), time.process_time()
        elif self._count == self._last:
            self._write()

    def _write(self) -> None:
        wall, cpu = self._began
        report = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "rss_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        }
        partial = self._report.with_suffix(".partial")
        partial.write_text(json.dumps(report))
        partial.replace(self._report)
