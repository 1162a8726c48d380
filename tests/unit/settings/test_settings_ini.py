"""The INI format: what is read, with its line, and what is refused."""

from __future__ import annotations

import pytest

from greenworker.settings.ini import read_ini


def values(text: str) -> dict[tuple[str, str], str]:
    return {(entry.section, entry.key): entry.value for entry in read_ini(text).entries}


@pytest.mark.parametrize(
    "value", ["100%", "amqp://u:p%40@[::1]:5672//", "a;b", "a#b", "a = b", "[::1]", '"quoted"', "${x}"]
)
def test_characters_with_a_meaning_elsewhere_stand_for_themselves(value: str) -> None:
    document = read_ini(f"[broker]\nurl = {value}\n")
    assert document.problems == []
    assert document.entries[0].value == value


def test_comments_start_a_line_and_may_stand_inside_a_value() -> None:
    text = "# one\n; two\n[worker]\nqueues = a\n  # not b\n  b\n\n  c\n"
    assert values(text) == {("worker", "queues"): "a\nb\nc"}


def test_keys_are_normalised_and_lines_counted() -> None:
    document = read_ini("\ufeff\r\n[worker]\r\nShutdown-Timeout=5s\r\n")
    entry = document.entries[0]
    assert (entry.key, entry.written, entry.line, entry.value) == ("shutdown_timeout", "Shutdown-Timeout", 3, "5s")
    assert document.problems == []


def test_inner_spaces_of_a_section_count_once() -> None:
    assert values("[ queue   mail ]\nweight=2") == {("queue mail", "weight"): "2"}


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("x = 1", 1, "key 'x' before any [section]"),
        ("  x = 1", 1, "an indented line goes on with the value above it, and there is none"),
        ("[worker]\n  x = 1", 2, "an indented line goes on with the value above it, and there is none"),
        ("[worker]\nconcurrency", 2, "expected 'key = value'"),
        ("[worker]\na b = 1", 2, "expected 'key = value', with one word"),
        ("[worker]\n= 1", 2, "expected 'key = value'"),
        ("[worker", 1, "expected a section such as [worker]"),
        ("[]", 1, "expected a section such as [worker]"),
        ("[worker] # note", 1, "expected a section such as [worker]"),
        ("[worker]\nx=1\n[broker]\n[worker]", 4, "duplicate section [worker] (first on line 1)"),
        ("[worker]\nx=1\nX=2", 3, "duplicate key 'X' in section [worker] (first on line 2)"),
        ("[worker]\nx=1\x00", 2, "expected text, got a control character"),
    ],
)
def test_faulty_lines_are_named(text: str, line: int, problem: str) -> None:
    problems = read_ini(text).problems
    assert [number for number, _ in problems] == [line]
    assert problems[0][1].startswith(problem)


def test_a_faulty_line_takes_its_continuation_with_it() -> None:
    document = read_ini("[worker]\nurl amqp://u:secret@\n   more-secret\nname = x\n")
    assert len(document.problems) == 1
    assert "secret" not in str(document.problems)
    assert [entry.key for entry in document.entries] == ["name"]
