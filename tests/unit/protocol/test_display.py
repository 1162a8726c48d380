"""bounded_repr: like repr for small things, bounded for all."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest

from greenworker.protocol.display import bounded_repr, bounded_text, shown


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        2.5,
        "it's",
        "line\nbreak",
        "é",
        b"\xff",
        (),
        (1,),
        (1, "a"),
        [],
        [1, [2]],
        {},
        {"a": {"b": [1]}},
        {1},
        set(),
        frozenset({1}),
        frozenset(),
        {(1, 2): 3},
    ],
    ids=repr,
)
def test_small_values_look_as_in_python(value: Any) -> None:
    assert bounded_repr(value) == repr(value)


def test_depth() -> None:
    assert bounded_repr([[[[1]]]]) == "[[[[...]]]]"
    assert bounded_repr({"a": {"b": {"c": {"d": 1}}}}) == "{'a': {'b': {'c': {...}}}}"
    endless: list[Any] = []
    endless.append(endless)
    assert bounded_repr(endless) == "[[[[...]]]]"


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10_000_000,
        b"x" * 10_000_000,
        list(range(1_000_000)),
        {n: n for n in range(100_000)},
        [["x" * 1000] * 1000] * 1000,
        (("x" * 5000, [1, 2]), {"k": "y" * 5000}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_length(value: Any) -> None:
    text = bounded_repr(value, 100)
    assert len(text) <= 120
    assert "..." in text
    for opening, closing in ("()", "[]", "{}"):
        assert text.count(opening) == text.count(closing)


def test_objects_of_any_kind() -> None:
    assert bounded_repr(OrderedDict(a=1)) == "{'a': 1}"
    assert bounded_repr([Rude()]) == "[<Rude, its repr raised RuntimeError>]"
    assert bounded_repr(10**5000) == "<int of 16610 bits>"


def test_shown_names_the_type() -> None:
    assert shown("a") == "'a' (str)"
    assert shown(None) == "nothing"


def test_bounded_text() -> None:
    assert bounded_text("abc", 3) == "abc"
    assert bounded_text("abcd", 3) == "..."
    assert bounded_text("abcdefgh", 6) == "abc..."
