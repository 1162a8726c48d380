"""The demo's driver: starts a worker and the slow web server, sends the tasks, shows how they get on, counts.

Exits with 0 only if every task succeeded and the server saw each exactly once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from greenworker import AsyncResult

REPOSITORY = Path(__file__).resolve().parents[2]
START_TIMEOUT = 20.0
STOP_TIMEOUT = 70.0
RESULT_TIMEOUT = 10.0
POLL_INTERVAL = 0.1
FILES_WANTED = 65_536  # a thousand sockets and a few files more do not fit into the 1,024 that a shell gives


class DemoError(Exception):
    """Something did not go as it should; the message says what."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the demo found out."""

    tasks: int
    succeeded: int
    failures: list[str]
    visits: dict[str, Any]
    enqueue_seconds: float
    wall_seconds: float
    memory_bytes: int
    exit_code: int

    def problems(self) -> list[str]:
        """Why this was no success, a line each; empty if it was."""
        found = list(self.failures[:5])
        if self.succeeded != self.tasks:
            found.append(f"{self.tasks} tasks were sent, {self.succeeded} succeeded")
        if self.visits["tasks"] != self.tasks:
            found.append(f"{self.tasks} tasks were sent, the server saw {self.visits['tasks']}")
        for task, count in list(self.visits["repeated"].items())[:5]:
            found.append(f"task {task} ran {count} times")
        if self.exit_code != 0:
            found.append(f"the worker exited with {self.exit_code}, not 0")
        return found


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Thousands of slow tasks in one process.")
    parser.add_argument("--tasks", type=int, default=2_000, help="how many to send (default: 2,000)")
    parser.add_argument("--delay", type=float, default=1.0, help="seconds that each page takes (default: 1)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds allowed to all tasks (default: 120)")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    _allow_many_files()
    with tempfile.TemporaryDirectory(prefix="greenworker-demo-") as folder:
        try:
            report = run(Path(folder), arguments.tasks, arguments.delay, arguments.timeout, console)
        except DemoError as exc:
            console.print(str(exc), style="red", markup=False)
            return 1
    show(report, arguments.delay, console)
    return 1 if report.problems() else 0


def run(folder: Path, tasks: int, delay: float, timeout: float, console: Console) -> Report:
    """Start everything, send ``tasks`` tasks, wait for them, stop everything. Raises DemoError."""
    # Read by the worker and by this process alike, which is how a producer finds the worker's embedded broker.
    os.environ["GREENWORKER_CONFIG"] = str(REPOSITORY / "conf" / "development.ini")
    os.environ["STATE_DIRECTORY"] = str(folder)
    with web_server(delay) as port, running_worker(folder / "worker.log") as worker:
        console.print(f"worker {worker.pid} is ready; its broker is a file in {folder}")
        began = time.monotonic()
        with Progress(
            TextColumn("{task.description:<8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        ) as progress:
            results = send(tasks, port, progress)
            enqueued = time.monotonic()
            watch(tasks, port, worker, began + timeout, progress)
        failures = collect(results)
        wall = time.monotonic() - began
        return Report(
            tasks=tasks,
            succeeded=tasks - len(failures),
            failures=failures,
            visits=visits(port),
            enqueue_seconds=enqueued - began,
            wall_seconds=wall,
            memory_bytes=peak_memory(worker.pid),
            exit_code=stop(worker),
        )


@contextmanager
def web_server(delay: float) -> Iterator[int]:
    """The slow server in a process of its own; yields its port."""
    command = [sys.executable, "-m", "demo.pages", "--delay", str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline())
        finally:
            server.terminate()


@contextmanager
def running_worker(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that has said it is ready; what it prints goes to ``log``, and is shown if it does not come up."""
    command = [sys.executable, "-m", "greenworker", "worker", "-A", "demo.tasks:app"]
    command += ["-C", os.environ["GREENWORKER_CONFIG"]]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as worker:
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while not re.search(r"\bready\b", log.read_text(errors="replace")):
                if worker.poll() is not None or time.monotonic() > deadline:
                    raise DemoError("the worker did not get ready; above is what it printed")
                time.sleep(POLL_INTERVAL)
            yield worker
        except DemoError:
            print(log.read_text(errors="replace")[-4_000:], file=sys.stderr)
            raise
        finally:
            stop(worker)


def send(tasks: int, port: int, progress: Progress) -> list[AsyncResult]:
    """Enqueue the tasks, one call each; returns their results to come."""
    from demo.tasks import fetch

    bar = progress.add_task("enqueued", total=tasks, note="")
    results = []
    for number in range(tasks):
        results.append(fetch.delay(port, number))
        progress.advance(bar)
    return results


def watch(tasks: int, port: int, worker: subprocess.Popen[bytes], deadline: float, progress: Progress) -> None:
    """Show how many pages were fetched until all were. Raises DemoError if the worker dies or time is up."""
    bar = progress.add_task("fetched", total=tasks, note="")
    while True:
        seen = visits(port)
        progress.update(bar, completed=seen["answered"], note=f"{seen['in_flight']:,} in flight")
        if seen["answered"] >= tasks and seen["in_flight"] == 0:
            return
        if worker.poll() is not None:
            raise DemoError(f"the worker died with exit code {worker.returncode} after {seen['answered']} tasks")
        if time.monotonic() > deadline:
            raise DemoError(f"time is up: {seen['answered']} of {tasks} tasks fetched their page")
        time.sleep(POLL_INTERVAL)


def collect(results: list[AsyncResult]) -> list[str]:
    """What became of the tasks that did not succeed, a line each."""
    failures = []
    for result in results:
        try:
            result.get(timeout=RESULT_TIMEOUT)
        except Exception as exc:  # whatever a task raised, or a result that never came, is one failed task
            failures.append(f"task {result.id}: {type(exc).__name__}: {exc}")
    return failures


def visits(port: int) -> dict[str, Any]:
    """What the server has seen so far."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10.0)
    try:
        connection.request("GET", "/visits")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return found


def peak_memory(pid: int) -> int:
    """The most memory (resident, bytes) that a process has had."""
    match = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if match is None:
        raise DemoError(f"process {pid} has no memory any more: the worker ended")
    return int(match[1]) * 1024


def stop(worker: subprocess.Popen[bytes]) -> int:
    """Stop the worker as a service manager does; returns its exit code. Harmless twice."""
    if worker.poll() is None:
        worker.send_signal(signal.SIGTERM)
    try:
        return worker.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        worker.kill()
        raise DemoError(f"the worker did not stop within {STOP_TIMEOUT:g} s") from None


def show(report: Report, delay: float, console: Console) -> None:
    """Print what happened."""
    seen = report.visits
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row(
        "tasks", f"{report.succeeded:,} of {report.tasks:,} succeeded; each fetched a page that takes {delay:g} s"
    )
    table.add_row("wall time", f"{report.wall_seconds:.2f} s, {report.enqueue_seconds:.2f} s of it for enqueueing")
    table.add_row("work", f"{seen['seconds']:.2f} s from the first page asked for to the last one served")
    table.add_row("one by one", f"{report.tasks * delay:,.0f} s it would have taken")
    table.add_row("in flight", f"{seen['peak']:,} tasks at the peak")
    table.add_row("memory", f"{report.memory_bytes / 2**20:.0f} MiB at the peak, in one process")
    console.print(table)
    problems = report.problems()
    for problem in problems:
        console.print(problem, style="red", markup=False)
    if not problems:
        console.print("Every task succeeded exactly once.", style="green")


def _allow_many_files() -> None:
    """Raise the limit of open files for the processes started here, as far as this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
