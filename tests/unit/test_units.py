"""Durations and sizes: what is read, what is refused, and that what is written reads back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenworker.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("500ms", 0.5),
        ("1d", 86400.0),
        ("2w", 1209600.0),
        ("45", 45.0),
        ("0.5", 0.5),
        ("1.5h", 5400.0),
        ("1h30m", 5400.0),
        ("1m500ms", 60.5),
        (" 10 s ", 10.0),
        ("0", 0.0),
    ],
)
def test_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "-1s", "1x", "1H", "nan", "inf", "1e3", "30m1h", "1h1h", "1 h 30 m", "1,5s", "\u0661s", "9" * 19]
)
def test_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 2**26),
        ("512KiB", 2**19),
        ("1GiB", 2**30),
        ("10MB", 10**7),
        ("7", 7),
        ("1.5KiB", 1536),
        ("3b", 3),
        ("1 kib", 1024),
    ],
)
def test_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1M", "1XiB", "1.0001KiB", "1e3"])
def test_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(30.0, "30s"), (300.0, "5m"), (5400.0, "90m"), (0.5, "500ms"), (0.0, "0s")]
)
def test_duration_is_written_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(min_value=0, max_value=1e9))
def test_every_duration_reads_back(seconds: float) -> None:
    if seconds == 0 or seconds > 1e-15:
        assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(min_value=0, max_value=10**17))
def test_every_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size
