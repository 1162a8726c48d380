"""Admission: expired, ETA, rate limit; and the rates' notation."""

from __future__ import annotations

from datetime import timedelta

import pytest

from greenworker.execution.admission import Admission, Defer, Drop, Start
from greenworker.execution.outcome import Revoked
from greenworker.execution.rate_limits import TokenBucket, parse_rate
from tests.support.clocks import FakeClock
from tests.support.execution import make_request


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def admission(clock: FakeClock) -> Admission:
    return Admission(clock)


def test_plain_request_starts(admission: Admission) -> None:
    assert isinstance(admission.decide(make_request()), Start)


def test_expired_is_dropped_even_if_its_eta_is_ahead(admission: Admission, clock: FakeClock) -> None:
    now = clock.utcnow()
    request = make_request(expires=now, eta=now + timedelta(seconds=5))
    assert admission.decide(request) == Drop(Revoked("expired"))


def test_eta_defers_until_it_is_due(admission: Admission, clock: FakeClock) -> None:
    request = make_request(eta=clock.utcnow() + timedelta(seconds=5))
    assert admission.decide(request) == Defer(5.0)
    clock.advance(5)
    assert isinstance(admission.decide(request), Start)


def test_rate_limit_spaces_starts_evenly(admission: Admission) -> None:
    admission.limit("tests.add", "2/s")
    decisions = [admission.decide(make_request()) for _ in range(4)]
    assert isinstance(decisions[0], Start)
    assert [d.delay for d in decisions[1:] if isinstance(d, Defer)] == pytest.approx([0.5, 1.0, 1.5])


def test_rate_limit_holds_up_nobody_else(admission: Admission) -> None:
    admission.limit("tests.other", "1/h")
    assert all(isinstance(admission.decide(make_request()), Start) for _ in range(100))


def test_lifted_rate_limit(admission: Admission) -> None:
    admission.limit("tests.add", "1/h")
    admission.decide(make_request())
    admission.limit("tests.add", None)
    assert isinstance(admission.decide(make_request()), Start)


def test_idle_time_earns_no_burst(clock: FakeClock) -> None:
    bucket = TokenBucket(10.0, clock)
    clock.advance(100)
    assert [bucket.reserve() for _ in range(3)] == pytest.approx([0.0, 0.1, 0.2])


def test_parked_starts_come_one_after_another_and_leave_theirs_to_the_next(clock: FakeClock) -> None:
    bucket = TokenBucket(1.0, clock)
    bucket.reserve()
    parked = []
    for _ in range(3):
        assert bucket.reserve() == pytest.approx(1.0)
        parked.append(bucket.park())
    assert parked == pytest.approx([1.0, 2.0, 3.0])
    assert bucket.reserve() == pytest.approx(1.0)
    clock.advance(10)
    bucket.reserve()
    bucket.reserve()
    assert bucket.park() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "per_second"),
    [("100/s", 100.0), ("60/m", 1.0), ("3600/h", 1.0), ("5", 5.0), (2.5, 2.5), (None, None), (0, None), ("0/s", None)],
)
def test_rates(text: str | float | None, per_second: float | None) -> None:
    assert parse_rate(text) == per_second


@pytest.mark.parametrize("text", ["fast", "10/d", "/s", "-1/s", "1/s/s"])
def test_bad_rates_say_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected a rate"):
        parse_rate(text)
