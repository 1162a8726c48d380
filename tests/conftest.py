"""Fixtures that every test may ask for: private brokers; and what happens where a broker is not installed."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping

import hypothesis
import pytest

from tests.support import rabbitmq as rabbitmq_support
from tests.support import redis_server as redis_support
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis_server import RedisServer

# Examples share two cores with real brokers: a deadline for one would measure the neighbours.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=100)
hypothesis.settings.register_profile("full", deadline=None, max_examples=2_000)
hypothesis.settings.load_profile("quick")

# A shell that starts us in the background has INT and QUIT ignored, and so would every worker that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

NOT_HERE = "not here: "  # begins the reason of a test that was skipped for want of a broker


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests said for the end of the run. From their reports, which come from other processes where xdist runs."""
    skipped = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", []) if report.longrepr]
    missing = Counter(reason.partition(NOT_HERE)[2] for reason in skipped if NOT_HERE in reason)
    for reason, count in missing.items():
        terminalreporter.write_line(f"{count} tests were skipped: {reason}", yellow=True)
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    told = [value for report in reports for name, value in getattr(report, "user_properties", ()) if name == "matrix"]
    if told:
        write_matrix(terminalreporter, {(pool, broker): outcome for pool, broker, outcome in told})


def write_matrix(terminalreporter: pytest.TerminalReporter, cells: Mapping[tuple[str, str], str]) -> None:
    """Pool by broker: which loop ran there, or why none did."""
    brokers = sorted({broker for _, broker in cells})
    terminalreporter.write_line(f"{'pool':<10}" + "".join(f"{broker:<30}" for broker in brokers))
    for pool in dict.fromkeys(pool for pool, _ in sorted(cells)):
        row = "".join(f"{cells.get((pool, broker), 'its test was not selected'):<30}" for broker in brokers)
        terminalreporter.write_line(f"{pool:<10}{row}")


def skip_or_fail(request: pytest.FixtureRequest, reason: str | None) -> None:
    """Skip the test for ``reason`` (None: run it); in CI fail it, for a test that never runs there guards nothing."""
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and with CI=true it must be there", pytrace=False)
    pytest.skip(f"{NOT_HERE}{reason}")


@pytest.fixture(scope="session")
def rabbitmq_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ | None]:
    """One private RabbitMQ for the whole run, started when the first test asks; None where it is not installed."""
    if rabbitmq_support.missing():
        yield None
        return
    server = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | None]:
    """The same for Redis."""
    if redis_support.missing():
        yield None
        return
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def rabbitmq(request: pytest.FixtureRequest, rabbitmq_session: RabbitMQ | None) -> RabbitMQ:
    """The run's RabbitMQ, shared: a test that stops or kills one makes its own."""
    skip_or_fail(request, rabbitmq_support.missing())
    assert rabbitmq_session is not None
    return rabbitmq_session


@pytest.fixture
def rabbitmq_url(rabbitmq: RabbitMQ) -> str:
    """The URL of a virtual host that no other test uses."""
    return rabbitmq.new_vhost()


@pytest.fixture(scope="module")
def rabbitmq_module_url(request: pytest.FixtureRequest, rabbitmq_session: RabbitMQ | None) -> str:
    """The same for a worker that serves all tests of a module."""
    skip_or_fail(request, rabbitmq_support.missing())
    assert rabbitmq_session is not None
    return rabbitmq_session.new_vhost()


@pytest.fixture
def redis_url(request: pytest.FixtureRequest, redis_session: RedisServer | None) -> str:
    """The URL of a Redis database that no other test uses."""
    skip_or_fail(request, redis_support.missing())
    assert redis_session is not None
    return redis_session.new_database()
