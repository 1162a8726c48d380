"""The benchmarks behind scripts/bench: cells, each measured in rounds in which its contenders take turns.

Prints medians, and how far the rounds lie apart. A figure holds for one machine; only ratios within a run compare.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from kombu import Connection, Consumer, Producer, Queue
from rich.console import Console
from rich.table import Table

import greenworker.broker.sqlite  # noqa: F401 - registers the transport with kombu
from greenworker.broker.sqlite.publisher import SqlitePublisher
from tests.support import queue_file
from tests.support.bench_fill import client, fill
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis_server import RedisServer
from tests.support.worker import REPOSITORY, Worker, wait_until

WARMUP = 2_000  # runs before the measured stretch
TASKS = 10_000
MESSAGES = 20_000
BATCH = 200  # messages published in one transaction, and the prefetch, of the embedded broker's own API
RUN_TIMEOUT = 300.0
CONSUME_TIMEOUT = 60.0

Figures = dict[str, float]  # what is measured, with its unit -> figure
Contender = Callable[[Path], Figures]  # measures once, in a folder of its own


def main() -> int:
    """Run the cells that the command line names, all by default."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=f"of {', '.join(CELLS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender is measured (default: 5)")
    arguments = parser.parse_args()
    unknown = set(arguments.cells) - set(CELLS)
    if unknown:
        parser.error(f"no such cell: {', '.join(sorted(unknown))}; there are {', '.join(CELLS)}")
    console = Console()
    for name in arguments.cells or CELLS:
        with CELLS[name]() as contenders:
            console.print(report(name, run(contenders, arguments.rounds, console)))
    return 0


def run(contenders: Mapping[str, Contender], rounds: int, console: Console) -> dict[str, list[Figures]]:
    """Measure the contenders in turn, ``rounds`` times."""
    measured: dict[str, list[Figures]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, contender in contenders.items():
            with console.status(f"round {number + 1} of {rounds}: {name}"), tempfile.TemporaryDirectory() as folder:
                measured[name].append(contender(Path(folder)))
    return measured


def report(cell: str, measured: Mapping[str, Sequence[Figures]]) -> Table:
    """Medians, the spread of the rounds in brackets, and ratios to the first contender."""
    table = Table(title=f"{cell}: median (least-most)", title_justify="left", box=None)
    table.add_column("contender", no_wrap=True)
    first = next(iter(measured.values()))
    units = list(first[0])
    for unit in units:
        table.add_column(unit, justify="right", no_wrap=True)
        if len(measured) > 1:
            table.add_column("ratio", justify="right")
    for name, rounds in measured.items():
        row = [name]
        for unit in units:
            figures = [figures[unit] for figures in rounds]
            row.append(f"{median(figures):,.0f} ({min(figures):,.0f}-{max(figures):,.0f})")
            if len(measured) > 1:
                row.append(f"{median(figures) / median(each[unit] for each in first):.2f}")
        table.add_row(*row)
    return table


# -- empty tasks on RabbitMQ


@contextmanager
def amqp_noop() -> Iterator[dict[str, Contender]]:
    """One worker process each, 1,000 slots, no results; Celery with its fastest flags; kombu runs no tasks at all."""
    with tempfile.TemporaryDirectory() as folder:
        broker = RabbitMQ(Path(folder))
        broker.start()
        try:
            yield {
                "greenworker -P gevent": lambda folder: greenworker_noop(folder, broker.new_vhost()),
                "celery -P gevent": lambda folder: peer_noop(folder, broker.new_vhost(), celery_command()),
                "bare kombu consumer": lambda folder: peer_noop(
                    folder, broker.new_vhost(), [sys.executable, "-m", "tests.support.bench_kombu"]
                ),
            }
        finally:
            broker.stop()


def celery_command() -> list[str]:
    """A Celery worker with its fastest documented flags."""
    command = [sys.executable, "-m", "celery", "-A", "tests.support.bench_celery", "worker", "-P", "gevent"]
    return [*command, "-c", "1000", "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING"]


def peer_noop(folder: Path, url: str, command: Sequence[str]) -> Figures:
    """Fill the queue, start ``command``, wait for the report of its meter."""
    fill_and_close(url)
    meter = folder / "report.json"
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **metered(meter), "BENCH_URL": url},
            stdout=output,
            stderr=output,
        )
        try:
            wait_until(meter.exists, RUN_TIMEOUT, f"{' '.join(command)}: {output.name}")
        finally:
            process.kill()
            process.wait(10.0)
    return per_task(meter)


def greenworker_noop(folder: Path, url: str) -> Figures:
    """The same for a greenworker worker."""
    meter = folder / "report.json"
    ini = {
        "worker": {"concurrency": 1_000},
        "broker": {"url": url},
        "results": {"url": "none"},
        "log": {"level": "WARNING"},
    }
    worker = Worker(folder, app="tests.support.bench_tasks:app", ini=ini, environ=metered(meter))
    if url.startswith("sqlite"):
        with worker.start():  # a producer does not make the file
            worker.stop()
    fill_and_close(url)
    with worker:
        wait_until(meter.exists, RUN_TIMEOUT, "the report")
    return per_task(meter)


def fill_and_close(url: str) -> None:
    app = client(url)
    try:
        fill(app, "bench.noop", WARMUP + TASKS)
    finally:
        app.close()


def metered(meter: Path) -> dict[str, str]:
    return {"BENCH_WARMUP": str(WARMUP), "BENCH_TASKS": str(TASKS), "BENCH_REPORT": str(meter)}


def per_task(meter: Path) -> Figures:
    measured = json.loads(meter.read_text())
    return {
        "tasks/s": TASKS / measured["seconds"],
        "CPU us/task": measured["cpu_seconds"] / TASKS * 1e6,
        "RSS MiB": measured["rss_bytes"] / 2**20,
    }


# -- the same on Redis


@contextmanager
def redis_noop() -> Iterator[dict[str, Contender]]:
    """One worker process each, as on RabbitMQ."""
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as broker:
        yield {
            "greenworker -P gevent": lambda folder: greenworker_noop(folder, broker.new_database()),
            "celery -P gevent": lambda folder: peer_noop(folder, broker.new_database(), celery_command()),
        }


# -- the embedded broker


@contextmanager
def sqlite_noop() -> Iterator[dict[str, Contender]]:
    """The same empty tasks on the embedded broker."""
    yield {"greenworker -P gevent": lambda folder: greenworker_noop(folder, f"sqlite:///{folder}/state/broker.db")}


@contextmanager
def sqlite_api() -> Iterator[dict[str, Contender]]:
    """Messages through the embedded broker alone: published and durable, then taken and acked."""
    yield {"own batch API": sqlite_batches, "kombu's API": sqlite_kombu}


def sqlite_batches(folder: Path) -> Figures:
    """The API that the worker itself uses, in batches."""
    path = folder / "broker.db"
    consumer = queue_file.Consumer(path, prefetch=BATCH)
    publisher = SqlitePublisher(path)
    message = queue_file.outgoing()

    def publish() -> None:
        for _ in range(0, MESSAGES, BATCH):
            publisher.publish([message] * BATCH)

    def consume() -> None:
        taken = 0
        deadline = time.monotonic() + CONSUME_TIMEOUT
        while taken < MESSAGES:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{taken} of {MESSAGES} messages within {CONSUME_TIMEOUT} s")
            consumer.source.pump(0.2)
            for delivery in consumer.got:
                delivery.ack()
            taken += len(consumer.got)
            consumer.got.clear()
        consumer.settle_down()

    try:
        return {"published/s": rate(publish), "consumed/s": rate(consume)}
    finally:
        publisher.close()
        consumer.close()


def sqlite_kombu(folder: Path) -> Figures:
    """A message at a time through kombu's Producer and Consumer, as any kombu program would."""
    queue_file.Consumer(folder / "broker.db").close()  # makes the file
    with Connection(f"sqlite:///{folder}/broker.db") as connection:
        channel = connection.channel()
        queue = Queue("celery", channel=channel)
        queue.declare()

        def publish() -> None:
            producer = Producer(channel)
            for _ in range(MESSAGES):
                producer.publish([], routing_key="celery")

        def consume() -> None:
            taken: list[None] = []

            def take(message: Any) -> None:
                message.ack()
                taken.append(None)

            channel.basic_qos(0, BATCH, False)
            with Consumer(channel, [queue], on_message=take):
                while len(taken) < MESSAGES:
                    connection.drain_events(timeout=CONSUME_TIMEOUT)

        return {"published/s": rate(publish), "consumed/s": rate(consume)}


def rate(work: Callable[[], None]) -> float:
    """Messages a second that ``work``, which handles MESSAGES, does."""
    began = time.perf_counter()
    work()
    return MESSAGES / (time.perf_counter() - began)


CELLS = {"amqp-noop": amqp_noop, "redis-noop": redis_noop, "sqlite-noop": sqlite_noop, "sqlite-api": sqlite_api}

if __name__ == "__main__":
    sys.exit(main())
