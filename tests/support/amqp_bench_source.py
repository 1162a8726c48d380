"""What receiving and acking costs a message, beside the floor: a bare frame loop that decodes and acks one by one.

usage: python -m tests.support.amqp_bench_source [POOL [COUNT [ROUNDS]]]

Starts a private RabbitMQ, fills a queue with Celery messages, and has fresh patched processes empty it, in turns: the
floor (py-amqp's header decoder, a greenlet or none a message), our AmqpSource, and stock py-amqp's consumer. Prints CPU
microseconds of the process a message: the best of ROUNDS.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.support.greenproc import run_patched
from tests.support.rabbitmq import RabbitMQ

PRELUDE = """
import json, resource, sys, time, struct
URL, COUNT = sys.argv[1], int(sys.argv[2])

def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

def report(started, cpu_started):
    print(json.dumps([(cpu() - cpu_started) / COUNT * 1e6, COUNT / (time.monotonic() - started)]))
"""

FILL = """
from tests.support.amqp_scenes import *
celery_headers = {"lang": "py", "task": "shop.add", "shadow": None, "eta": None, "expires": None, "group": None,
    "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": "9" * 36, "parent_id": None,
    "argsrepr": "(1,)", "kwargsrepr": "{}", "origin": "gen123@host", "ignore_result": False, "replaced_task_nesting": 0,
    "stamped_headers": None, "stamps": {}}
def message(number):
    made = envelope(number, reply_to="4" * 36)
    return Envelope(made.body, made.content_type, made.content_encoding, {**celery_headers, "id": f"{number:036}"},
        made.properties)
publisher, queue = open_publisher(URL), QueueSpec("bench")
for at in range(0, COUNT, 500):
    publisher.publish([Outgoing(message(number), "bench", queue=queue) for number in range(at, at + 500)])
publisher.close()
"""

FLOOR = """
import amqp
from urllib.parse import urlsplit
parts = urlsplit(URL)
connection = amqp.Connection(f"{parts.hostname}:{parts.port}", virtual_host=parts.path[1:])
connection.connect()
channel = connection.channel()
channel.basic_qos(0, 1000, False)
sock = connection.transport.sock
channel.basic_consume("bench", callback=lambda message: None, nowait=True, consumer_tag="floor")
FRAME, ACK = struct.Struct(">BHI"), struct.Struct(">BHIHHQBB")
outbox, done, started, rest, tag = [], 0, None, b"", 0
while done < COUNT:
    data = rest + sock.recv(131072)
    if started is None:
        started, cpu_started = time.monotonic(), cpu()
    offset, end = 0, len(data)
    while end - offset >= 8:
        kind, _, size = FRAME.unpack_from(data, offset)
        payload, frame_end = offset + 7, offset + 8 + size
        if frame_end > end:
            break
        if kind == 1 and data[payload:payload + 4] == b"\\0\\x3c\\0\\x3c":
            tag = struct.unpack_from(">Q", data, payload + 5 + data[payload + 4])[0]
        elif kind == 2:
            amqp.basic_message.Message()._load_properties(60, data, payload + 12)
        elif kind == 3:
            outbox.append(ACK.pack(1, 1, 13, 60, 80, tag, 0, 0xCE))
            done += 1
        offset = frame_end
    rest = data[offset:]
    if outbox:
        sock.sendall(b"".join(outbox))
        outbox.clear()
report(started, cpu_started)
channel.basic_qos(0, 1, False)
"""

SOURCE = """
from tests.support.amqp_scenes import *
done, started = 0, None
def on_delivery(delivery):
    global done, started, cpu_started
    if started is None:
        started, cpu_started = time.monotonic(), cpu()
    done += 1
    delivery.ack()
source = open_source(POOL, URL, on_delivery)
source.start([QueueSpec("bench")], 1000)
while done < COUNT:
    source.pump(1.0)
source.flush()
report(started, cpu_started)
source.close()
"""

STOCK = """
import amqp
from urllib.parse import urlsplit
parts = urlsplit(URL)
connection = amqp.Connection(f"{parts.hostname}:{parts.port}", virtual_host=parts.path[1:])
connection.connect()
channel = connection.channel()
channel.basic_qos(0, 1000, False)
done, started = 0, None
def on_message(message):
    global done, started, cpu_started
    if started is None:
        started, cpu_started = time.monotonic(), cpu()
    done += 1
    channel.basic_ack(message.delivery_tag)
channel.basic_consume("bench", callback=on_message)
while done < COUNT:
    connection.drain_events(timeout=5)
report(started, cpu_started)
connection.close()
"""

RUNS = {"floor": FLOOR, "AmqpSource": SOURCE, "stock py-amqp": STOCK}


def measure(pool: str, count: int, rounds: int) -> dict[str, tuple[float, float]]:
    """CPU microseconds a message, and messages a second, of each way; the best round's."""
    best: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory(prefix="greenworker-bench-") as folder:
        server = RabbitMQ(Path(folder) / "rabbitmq")
        server.start()
        try:
            for _ in range(rounds):
                for name, script in RUNS.items():
                    url = server.new_vhost()
                    run_patched("threads", PRELUDE + FILL, url, str(count), timeout=300)
                    microseconds, rate = json.loads(run_patched(pool, PRELUDE + script, url, str(count), timeout=300))
                    best[name] = min(best.get(name, (microseconds, rate)), (microseconds, rate))
        finally:
            server.stop()
    return best


def main() -> None:
    pool, count, rounds = (*sys.argv[1:], *("gevent", "10000", "3")[len(sys.argv) - 1 :])
    best = measure(pool, int(count), int(rounds))
    floor = best["floor"][0]
    for name, (microseconds, rate) in best.items():
        print(
            f"{name:>14}: {microseconds:6.1f} us CPU a message, {microseconds / floor:.2f} of the floor, {rate:,.0f}/s"
        )


if __name__ == "__main__":
    main()
