"""Result documents that are odd, hostile or no documents. Equality with Celery's is tested under conformance."""

from __future__ import annotations

import sys
import types
from datetime import UTC, datetime
from typing import Any

import pytest

from greenworker.errors import EncodeError, ResultsError, UnstorableResultError
from greenworker.protocol.results import (
    FAILURE,
    RETRY,
    STARTED,
    SUCCESS,
    ResultMeta,
    decode_exception,
    decode_meta,
    encode_exception,
    encode_meta,
)
from greenworker.protocol.serialization import encode

DONE = datetime(2031, 1, 2, tzinfo=UTC)


def test_date_done_is_null_before_the_end() -> None:
    for status in (STARTED, RETRY):
        assert encode_meta(ResultMeta("t", status, date_done=DONE))["date_done"] is None
    assert encode_meta(ResultMeta("t", SUCCESS, date_done=DONE))["date_done"] == "2031-01-02T00:00:00+00:00"


def test_round_trip() -> None:
    meta = ResultMeta("t", SUCCESS, [1], None, [[["c", None], None]], DONE, "p", "g")
    assert decode_meta(encode_meta(meta)) == meta


def test_an_exception_as_the_result_of_a_success_is_a_value_that_cannot_be_encoded() -> None:
    with pytest.raises(EncodeError):
        encode(encode_meta(ResultMeta("t", SUCCESS, ValueError("returned"))), "json")


def test_result_that_cannot_be_encoded() -> None:
    with pytest.raises(EncodeError, match="as json"):
        encode(encode_meta(ResultMeta("t", SUCCESS, object())), "json")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (None, ["a mapping", "nothing"]),
        ([], ["a mapping", "list"]),
        ({}, ["status"]),
        ({"status": SUCCESS}, ["task_id"]),
        ({"status": 3, "task_id": "t"}, ["status", "3"]),
        ({"status": SUCCESS, "task_id": "t", "date_done": "soon"}, ["date_done", "'soon'"]),
        ({"status": SUCCESS, "task_id": "t", "children": 3}, ["children", "a list"]),
        ({"status": SUCCESS, "task_id": "t", "traceback": 3}, ["traceback", "text"]),
    ],
)
def test_no_documents(document: Any, words: list[str]) -> None:
    with pytest.raises(ResultsError) as caught:
        decode_meta(document)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "SystemExit"),
        ("builtins", "KeyboardInterrupt"),
        ("builtins", "BaseException"),
        ("builtins", "list"),
        ("greenworker.errors", "StopTask"),
        ("subprocess", "Popen.__init__"),
        ("", ""),
        ("a.b", "C.<locals>.D"),
        (3, 4),
        (None, None),
        ("x\0", "y\0"),
        ("\ud800", "\ud800"),
        ("m" * 10_000, "n" * 10_000),
    ],
)
def test_only_exceptions_are_ever_made(module: Any, name: Any) -> None:
    exc = decode_exception({"exc_module": module, "exc_type": name, "exc_message": ["echo hello", 1]})
    assert isinstance(exc, Exception)
    assert exc.args == ("echo hello", 1)
    assert type(exc).__init__ is Exception.__init__


def test_nothing_is_imported() -> None:
    """A module whose attributes are made on demand (as in greenworker's own package) is not asked for any."""
    lazy = types.ModuleType("lazy_module_of_this_test")
    lazy.__dict__["__getattr__"] = lambda name: pytest.fail(f"asked for {name}")
    sys.modules[lazy.__name__] = lazy
    try:
        exc = decode_exception({"exc_module": lazy.__name__, "exc_type": "SomeError", "exc_message": []})
    finally:
        del sys.modules[lazy.__name__]
    assert type(exc).__name__ == "SomeError"
    assert "antigravity" not in sys.modules
    decode_exception({"exc_module": "antigravity", "exc_type": "FallError", "exc_message": []})
    assert "antigravity" not in sys.modules


def test_a_message_that_is_no_list_is_one_argument() -> None:
    exc = decode_exception({"exc_module": "builtins", "exc_type": "ValueError", "exc_message": "text"})
    assert (type(exc), exc.args) == (ValueError, ("text",))


def test_exceptions_that_resist() -> None:
    class NoArgsError(Exception):
        @property
        def args(self) -> Any:
            raise RuntimeError("no args")

    assert "NoArgsError" in encode_exception(NoArgsError())["exc_message"][0]
    document = encode_exception(UnstorableResultError("a", object()))
    assert document["exc_message"][0] == "a"
    assert document["exc_message"][1].startswith("<object object")
    encode(document, "json")


def test_a_result_in_an_exception_state_that_is_no_exception_document_is_left() -> None:
    assert decode_meta({"status": FAILURE, "task_id": "t", "result": "text"}).result == "text"
    assert decode_meta({"status": RETRY, "task_id": "t", "result": None}).result is None
