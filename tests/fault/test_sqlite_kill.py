"""Processes that die with the queue file in use: nothing is lost, nothing is handed out twice while its owner lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from greenworker.broker.sqlite.source import SqliteOptions
from greenworker.broker.sqlite.store import QueueStore, StoreOptions
from tests.support.queue_file import Consumer, outgoing, publish

CONSUME = """
import sys, pathlib
from greenworker.broker.sqlite.source import SqliteOptions
from tests.support.queue_file import Consumer
acks, path = sys.argv[2] == "ack", pathlib.Path(sys.argv[1])
consumer = Consumer(path, prefetch=50, options=SqliteOptions(lease_timeout=1.0))
print("ready", flush=True)
while True:
    consumer.source.pump(0.2)
    for delivery in consumer.got:
        if acks:
            delivery.ack()
    consumer.source.flush()
    for delivery in consumer.got:
        print(delivery.envelope.body, flush=True)
    consumer.got.clear()
"""
PRODUCE = """
import sys, pathlib
from greenworker.broker.sqlite.publisher import SqlitePublisher
from tests.support.queue_file import outgoing
publisher = SqlitePublisher(pathlib.Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    publisher.publish([outgoing(f"{sys.argv[2]}-{number}")])
    print(f"{sys.argv[2]}-{number}", flush=True)
"""


def spawn(code: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True)


def lines_of(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.read().split()


def test_what_a_killed_consumer_had_comes_again_after_its_lease_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    consumer = Consumer(path, prefetch=100)
    consumer.source.stop()
    victim = spawn(CONSUME, path, "hold")
    assert victim.stdout is not None
    assert victim.stdout.readline() == "ready\n"
    publish(path, *[outgoing(str(number)) for number in range(50)])
    held = {victim.stdout.readline().strip() for _ in range(50)}
    assert len(held) == 50
    other = Consumer(path, prefetch=100)
    end = time.monotonic() + 1.6  # more than a lease: it is renewed while its owner lives
    while time.monotonic() < end:
        other.source.pump(0.1)
    assert other.got == []
    victim.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    victim.wait(10)
    deliveries = other.take(50, timeout=20)
    assert {delivery.envelope.body for delivery in deliveries} == held
    assert all(delivery.redelivered for delivery in deliveries)
    assert time.monotonic() - killed < 10
    for closing in (consumer, other):
        closing.close()


def test_a_consumer_that_stood_still_loses_its_messages_and_goes_on_with_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    stopped = spawn(CONSUME, path, "hold")
    assert stopped.stdout is not None
    assert stopped.stdout.readline() == "ready\n"
    publish(path, outgoing("first"))
    assert stopped.stdout.readline() == "first\n"
    os.kill(stopped.pid, signal.SIGSTOP)
    other = Consumer(path)
    assert other.take(1, timeout=20)[0].redelivered
    os.kill(stopped.pid, signal.SIGCONT)
    other.source.stop()
    publish(path, outgoing("second"))
    assert stopped.stdout.readline() == "second\n"
    stopped.kill()
    stopped.wait(10)
    other.close()


def test_producers_and_consumers_killed_at_random_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    consumer = Consumer(path, prefetch=1_000, options=SqliteOptions(lease_timeout=5.0))
    consumers = [spawn(CONSUME, path, "ack")]
    assert consumers[0].stdout is not None
    consumers[0].stdout.readline()
    producers = [spawn(PRODUCE, path, name, 400) for name in "abc"]
    assert producers[0].stdout is not None
    assert producers[0].stdout.readline() == "a-0\n"
    producers[0].kill()
    first = consumers[0].stdout.readline().strip()
    consumers[0].kill()
    consumers.append(spawn(CONSUME, path, "ack"))
    published = {"a-0", *lines_of(producers[0])}
    for producer in producers[1:]:
        published |= set(lines_of(producer))
        assert producer.wait(30) == 0
    assert len(published) > 800
    store = QueueStore(path, StoreOptions())
    consumer.source.stop()
    consumer.pump_until(lambda: store.read("SELECT count(*) FROM messages") == [(0,)], timeout=30)
    consumers[1].kill()
    acked = {first, *(line for each in consumers for line in lines_of(each))}
    assert len(published - acked) <= 50  # the killed one acked up to one batch that it had no time to print
    assert store.read("PRAGMA integrity_check") == [("ok",)]
    for process in (*producers, *consumers):
        process.wait(10)
    store.close()
    consumer.close()
