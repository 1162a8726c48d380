"""Result documents of a real Celery backend and ours, both ways."""

from __future__ import annotations

import json
import sys
import types
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import billiard.exceptions
import celery
import celery.exceptions
import pytest
from celery.app.task import Context

from greenworker import errors
from greenworker.protocol import results
from greenworker.protocol.results import (
    EXCEPTION_STATES,
    FAILURE,
    READY_STATES,
    RETRY,
    REVOKED,
    STARTED,
    SUCCESS,
    ResultMeta,
    decode_meta,
    encode_meta,
)
from greenworker.protocol.serialization import decode, encode

DONE = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


class ShopError(Exception):
    """An exception of an app's own."""

    class Inner(Exception):  # noqa: N818 - nested classes are what is tested
        """One inside another class."""


class ParticularError(Exception):
    """One that cannot be made from its args."""

    def __init__(self, code: int, *, text: str) -> None:
        self.code = code
        super().__init__(f"{code}: {text}")


@pytest.fixture
def app() -> Iterator[celery.Celery]:
    app = celery.Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield app
    app.close()


def stored_by_celery(app: celery.Celery, result: Any, state: str, **options: Any) -> dict[str, Any]:
    """The document that Celery's backend stores, as its bytes say."""
    task_id = str(uuid.uuid4())
    app.backend.store_result(task_id, result, state, **options)
    document: dict[str, Any] = json.loads(app.backend.get(app.backend.get_key_for_task(task_id)))
    return document


def read_by_celery(app: celery.Celery, meta: ResultMeta) -> dict[str, Any]:
    body, _, _ = encode(encode_meta(meta), "json")
    document: dict[str, Any] = app.backend.decode_result(body)
    return document


def through_json(document: dict[str, Any]) -> dict[str, Any]:
    """What is left of ``document`` once it was encoded, in the order of its keys."""
    plain: dict[str, Any] = json.loads(encode(document, "json")[0])
    return plain


@pytest.mark.parametrize(
    ("state", "result"),
    [
        (SUCCESS, {"a": [1, None, "é"]}),
        (SUCCESS, None),
        (STARTED, {"pid": 1, "hostname": "here"}),
        ("PROGRESS", {"done": 3}),
        (FAILURE, ValueError("wrong", 3)),
        (RETRY, KeyError("k")),
        (REVOKED, celery.exceptions.TaskRevokedError("expired")),
    ],
)
@pytest.mark.parametrize("family", [{}, {"group": "g", "parent_id": "p"}])
def test_documents_are_equal_and_in_the_same_order(
    app: celery.Celery, state: str, result: Any, family: dict[str, str]
) -> None:
    traceback = "Traceback ..." if state in EXCEPTION_STATES else None
    request = Context(children=[], **family)
    celerys = stored_by_celery(app, result, state, traceback=traceback, request=request)
    if isinstance(result, celery.exceptions.TaskRevokedError):
        result = errors.TaskRevokedError(*result.args)
    meta = ResultMeta(
        task_id=celerys["task_id"],
        status=state,
        result=result,
        traceback=traceback,
        date_done=DONE,
        group_id=family.get("group"),
        parent_id=family.get("parent_id"),
    )
    ours = through_json(encode_meta(meta))
    assert list(ours) == list(celerys)
    celerys_done, ours_done = celerys.pop("date_done"), ours.pop("date_done")
    assert ours == celerys
    if state in READY_STATES:
        assert datetime.fromisoformat(celerys_done).utcoffset() == datetime.fromisoformat(ours_done).utcoffset()
    else:
        assert (celerys_done, ours_done) == (None, None)


def test_we_read_what_celery_stored(app: celery.Celery) -> None:
    document = stored_by_celery(app, [1, {"a": 2}], SUCCESS, request=Context(group="g", parent_id="p"))
    meta = decode_meta(document)
    assert (meta.task_id, meta.status, meta.result) == (document["task_id"], SUCCESS, [1, {"a": 2}])
    assert (meta.group_id, meta.parent_id, meta.children, meta.traceback) == ("g", "p", [], None)
    assert meta.date_done is not None
    assert meta.date_done.tzinfo is UTC


EXCEPTIONS = [
    ValueError("wrong", 3),
    KeyError("missing"),
    ZeroDivisionError("division by zero"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ShopError("no apples", {"left": 0}),
    ShopError.Inner("inside"),
    OSError(2, "No such file"),
]


@pytest.mark.parametrize("exc", EXCEPTIONS, ids=lambda exc: type(exc).__name__)
def test_exceptions_from_celery_to_us(app: celery.Celery, exc: Exception) -> None:
    document = stored_by_celery(app, exc, FAILURE, traceback="...")
    celerys = app.backend.exception_to_python(app.backend.prepare_exception(exc))
    ours = decode_meta(decode(json.dumps(document), "application/json", "utf-8", ("json",))).result
    assert type(ours) is type(exc) is type(celerys)
    assert ours.args == celerys.args == exc.args


@pytest.mark.parametrize("exc", EXCEPTIONS, ids=lambda exc: type(exc).__name__)
def test_exceptions_from_us_to_celery(app: celery.Celery, exc: Exception) -> None:
    found = read_by_celery(app, ResultMeta("t", FAILURE, exc, traceback="...", date_done=DONE))["result"]
    assert type(found) is type(exc)
    assert found.args == exc.args


def test_an_exception_of_a_module_that_the_reader_has_not(app: celery.Celery) -> None:
    module = types.ModuleType("only_in_the_worker")
    gone = type("GoneError", (Exception,), {"__module__": module.__name__})
    document = stored_by_celery(app, gone("why", 1), FAILURE)
    ours = decode_meta(document).result
    theirs = read_by_celery(app, ResultMeta("t", FAILURE, gone("why", 1), date_done=DONE))["result"]
    for found in (ours, theirs):
        assert isinstance(found, Exception)
        assert (type(found).__name__, found.args) == ("GoneError", ("why", 1))
    assert "only_in_the_worker" not in sys.modules
    assert results.encode_exception(ours) == document["result"]  # and it can be passed on unchanged


def test_an_exception_that_cannot_be_made_again_tells_what_there_was(app: celery.Celery) -> None:
    exc = ParticularError(5, text="bad")
    ours = decode_meta(stored_by_celery(app, exc, FAILURE)).result
    theirs = read_by_celery(app, ResultMeta("t", FAILURE, exc, date_done=DONE))["result"]
    for found in (ours, theirs):
        assert type(found) is Exception
        assert "ParticularError" in str(found)
        assert "5: bad" in str(found)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (errors.SoftTimeLimitExceeded(3), billiard.exceptions.SoftTimeLimitExceeded),
        (errors.TimeLimitExceeded(3), billiard.exceptions.TimeLimitExceeded),
        (errors.TaskRevokedError("expired"), celery.exceptions.TaskRevokedError),
        (errors.NotRegistered("shop.add"), celery.exceptions.NotRegistered),
        (errors.MaxRetriesExceededError("no more"), celery.exceptions.MaxRetriesExceededError),
        (errors.Ignore("i"), celery.exceptions.Ignore),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exceptions_that_both_have_are_caught_by_their_own_names(
    app: celery.Celery, ours: Exception, theirs: type[Exception]
) -> None:
    at_celery = read_by_celery(app, ResultMeta("t", FAILURE, ours, date_done=DONE))["result"]
    assert type(at_celery) is theirs
    at_ours = decode_meta(stored_by_celery(app, theirs(*ours.args), FAILURE)).result
    assert type(at_ours) is type(ours)
    assert at_ours.args == ours.args


def test_arguments_that_cannot_be_encoded_become_text_as_in_celery(app: celery.Celery) -> None:
    exc = ValueError("ok", object, {1, 2})
    document = stored_by_celery(app, exc, FAILURE)
    ours = through_json(encode_meta(ResultMeta(document["task_id"], FAILURE, exc, date_done=DONE)))
    assert ours["result"] == document["result"]


def test_the_states_are_celerys() -> None:
    for name in ("PENDING", "RECEIVED", "STARTED", "SUCCESS", "FAILURE", "RETRY", "REVOKED", "REJECTED", "IGNORED"):
        assert getattr(results, name) == getattr(celery.states, name)
    assert results.READY_STATES == celery.states.READY_STATES
    assert results.EXCEPTION_STATES == celery.states.EXCEPTION_STATES
