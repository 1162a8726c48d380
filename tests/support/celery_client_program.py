"""A shop's own program: it sends 1,000 tasks of seven kinds with Celery and checks every result by itself.

    BROKER_URL=... RESULT_BACKEND=... python celery_client_program.py [COUNT]

Prints how many of each kind came back as they should, and each that did not; the exit code is 1 if there is one.
"""

import os
import random
import sys
import time
from collections import Counter

from celery import Celery, chain
from celery.exceptions import MaxRetriesExceededError

app = Celery("program", broker=os.environ["BROKER_URL"], backend=os.environ["RESULT_BACKEND"])
app.conf.update(
    accept_content=["json", "msgpack"],
    result_expires=600,
    task_publish_retry_policy={"max_retries": 3},
    broker_connection_timeout=5,
)
WAIT = 60.0  # seconds for one result


def plain(number):
    result = app.send_task("shop.echo", [number, "straße"])
    return lambda: result.get(timeout=WAIT) == [[number, "straße"], {}]


def with_keywords(number):
    options = {"compression": "gzip", "serializer": "msgpack", "headers": {"order": str(number)}}
    result = app.send_task("shop.echo", (), {"number": number, "text": "é" * 1000}, **options)
    return lambda: result.get(timeout=WAIT) == [[], {"number": number, "text": "é" * 1000}]


def failing(number):
    result = app.send_task("shop.fails", ["no apples", number])

    def came_back():
        error = result.get(timeout=WAIT, propagate=False)
        said = (type(error).__name__, error.args) == ("ShopError", ("no apples", number))
        return said and result.state == "FAILURE" and "Traceback" in result.traceback

    return came_back


def retried(number):
    failures = number % 3
    result = app.send_task("shop.retries", [failures], {"countdown": 0.1})
    return lambda: result.get(timeout=WAIT) == failures


def given_up(number):
    result = app.send_task("shop.gives_up")

    def came_back():
        try:
            result.get(timeout=WAIT)
        except MaxRetriesExceededError:
            return True
        return False

    return came_back


def delayed(number):
    due = time.time() + 1.0
    result = app.send_task("shop.told", countdown=1.0, expires=600, priority=number % 10)

    def came_back():
        told = result.get(timeout=WAIT)
        return told["at"] >= due - 0.02 and told["priority"] == number % 10

    return came_back


def chained(number):
    first = app.signature("shop.echo", args=[number])
    second = app.signature("shop.echo", args=["second"])
    result = chain(first, second, app=app).apply_async()
    return lambda: result.get(timeout=WAIT) == [[[[number], {}], "second"], {}] and result.parent.get(timeout=WAIT)


KINDS = (plain, with_keywords, failing, retried, given_up, delayed, chained)


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    numbers = list(range(count))
    random.Random(1).shuffle(numbers)
    sent = [(KINDS[number % len(KINDS)], number) for number in numbers]
    checks = [(kind.__name__, number, kind(number)) for kind, number in sent]
    good = Counter()
    for name, number, came_back in checks:
        try:
            fault = None if came_back() else "wrong result"
        except Exception as error:
            fault = repr(error)
        if fault is None:
            good[name] += 1
        else:
            print(f"{name} {number}: {fault}", file=sys.stderr)
    print(*(f"{name}={good[name]}" for name in sorted(good)), f"all={good.total()}")
    return 0 if good.total() == count else 1


if __name__ == "__main__":
    sys.exit(main())
