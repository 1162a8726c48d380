"""Publishing from inside tasks, and in bulk, on real brokers: few connections, a loop that goes on, nothing lost."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from greenworker import App
from greenworker.settings import load_settings
from tests.support.bulk_bench import measure
from tests.support.journal import Journal
from tests.support.proxy import Proxy
from tests.support.worker import Worker, wait_until

SENDERS = 30
CONNECTIONS = 3

SHOP = """
import time
from pathlib import Path

from greenworker import App
from tests.support.journal import note

app = App("shop")


@app.task(name="shop.tick", ignore_result=True)
def tick(stop):
    while not Path(stop).exists():
        note(event="tick")
        time.sleep(0.01)


@app.task(name="shop.spread", ignore_result=True)
def spread(number, go):
    note(event="ready")
    while not Path(go).exists():
        time.sleep(0.01)
    note(event="go")
    child.delay(number)
    note(event="sent")


@app.task(name="shop.child", ignore_result=True)
def child(number):
    note(event="child", number=number)
"""


def through(url: str, proxy: Proxy) -> str:
    return re.sub(r":\d+(?=/)", f":{proxy.port}", url)


@pytest.mark.parametrize("after", ["resume", "cut"])
@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_tasks_that_publish_wait_for_the_broker_and_the_loop_goes_on(
    request: pytest.FixtureRequest, tmp_path: Path, broker: str, after: str
) -> None:
    url = request.getfixturevalue(f"{broker}_url")
    port = int(re.search(r":(\d+)/", url)[1])  # type: ignore[index]
    journal = Journal(tmp_path / "journal")
    go, stop = tmp_path / "go", tmp_path / "stop"

    def count(event: str) -> int:
        return Counter(line["event"] for line in journal.lines())[event]

    with Proxy(port) as proxy:
        ini = {
            "broker": {"url": through(url, proxy), "publish_connections": CONNECTIONS, "publish_timeout": "30s"},
            "results": {"url": "none"},
        }
        settings = load_settings(overrides={("broker", "url"): url, ("results", "url"): "none"}, environ={})
        worker = Worker(tmp_path, app="shop:app", ini=ini, files={"shop.py": SHOP}, environ=journal.environ)
        with worker, App("client", settings=settings) as client:
            client.send_task("shop.tick", (str(stop),))
            client.bulk([("shop.spread", (number, str(go))) for number in range(SENDERS)])
            wait_until(lambda: count("ready") == SENDERS and count("tick"), what="all to be ready")
            proxy.freeze()
            go.touch()
            wait_until(lambda: count("go") == SENDERS, what="all to publish")
            ticks = count("tick")
            wait_until(lambda: count("tick") >= ticks + 20, what="other tasks to go on meanwhile")
            assert count("sent") == 0, "nothing is confirmed by a broker that stands still"
            if after == "cut":
                proxy.cut()
            proxy.resume()
            wait_until(lambda: count("sent") >= SENDERS, 30.0, "each to be confirmed")
            stop.touch()
            numbers = set(range(SENDERS))
            wait_until(lambda: {line.get("number") for line in journal.lines()} >= numbers, 30.0, "each child to run")
            if after == "resume":
                assert proxy.accepted <= OWN_CONNECTIONS[broker] + CONNECTIONS


OWN_CONNECTIONS = {"rabbitmq": 1, "redis": 4}  # of the worker itself, beside those that publish


@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_bulk_is_faster_than_a_loop(request: pytest.FixtureRequest, broker: str) -> None:
    """Three to five times where both were measured; the bound is what a busy machine leaves of that."""
    rates = measure(request.getfixturevalue(f"{broker}_url"), 500)
    assert rates["bulk"] > 1.3 * rates["delay"], rates
