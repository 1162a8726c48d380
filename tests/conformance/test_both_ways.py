"""Celery's client and our worker, our client and Celery's worker: the same cases, on every pair of broker and results.

The table of cases is tests/support/both_ways_cases.py; a row that fails is named by its test's id.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.support.both_ways_cases")  # what its checks compare is shown when they fail

from tests.conftest import skip_or_fail
from tests.support import redis_server as redis_support
from tests.support.both_ways import CELERY, GREENWORKER, Cell, open_cell
from tests.support.both_ways_cases import CASES, Case
from tests.support.redis_server import RedisServer


def cell_of(worker: str, broker: str, results: str, *marks: pytest.MarkDecorator) -> object:
    client = {CELERY: "our client", GREENWORKER: "celery's client"}[worker]
    return pytest.param((worker, broker, results), id=f"{client}, {broker} and {results}", marks=marks)


CELLS = [
    cell_of(GREENWORKER, "rabbitmq", "rpc"),
    cell_of(CELERY, "redis", "redis"),
    *(
        cell_of(worker, *place, pytest.mark.full)
        for worker, *place in (
            (GREENWORKER, "rabbitmq", "redis"),
            (GREENWORKER, "redis", "redis"),
            (CELERY, "rabbitmq", "redis"),
            (CELERY, "rabbitmq", "rpc"),
        )
    ),
]


def address(request: pytest.FixtureRequest, kind: str) -> str:
    if kind == "rpc":
        return "rpc://"
    if kind == "rabbitmq":
        return str(request.getfixturevalue("rabbitmq_module_url"))
    skip_or_fail(request, redis_support.missing())
    server: RedisServer = request.getfixturevalue("redis_session")
    return server.new_database()


@pytest.fixture(scope="module", params=CELLS)
def cell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    worker, broker, results = request.param
    broker_url = address(request, broker)
    with open_cell(worker, broker_url, address(request, results), tmp_path_factory.mktemp("cell")) as cell:
        cell.send_all(CASES)
        yield cell


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_ways(cell: Cell, case: Case) -> None:
    case.check(cell.see(case))


def test_priority_order(cell: Cell) -> None:
    """Highest first on RabbitMQ; on Redis lowest first, in kombu's four steps. Among equals, as they were sent."""

    def rank(priority: int) -> int:
        return priority // 3 if cell.lowest_first else -priority

    sent = list(cell.by_priority)
    assert cell.order_of_receipt() == sorted(sent, key=lambda each: rank(cell.by_priority[each]))
