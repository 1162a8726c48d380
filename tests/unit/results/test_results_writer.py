"""The writer: order, batches, a store that is away, refused records, the spill, and who is told when."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from greenworker.errors import ResultsError, UnstorableResultError
from greenworker.protocol.results import FAILURE, RETRY, STARTED, SUCCESS, ResultMeta, decode_meta
from greenworker.protocol.serialization import decode
from greenworker.results import writer as writer_module
from greenworker.results.record import Record, RefusedRecordError, make_record
from greenworker.results.spill import SMALLEST_COUNT_BYTES, Spill
from greenworker.results.writer import ResultsWriter
from tests.support.worker import wait_until

NOW = datetime(2031, 5, 6, tzinfo=UTC)


class Store:
    """A store that tests take away, and that refuses what they name. ``written``: task id and result, in order."""

    def __init__(self) -> None:
        self.written: list[tuple[str, Any]] = []
        self.batches: list[int] = []
        self.away = threading.Event()
        self.refused: set[str] = set()
        self.failing: dict[str, int] = {}  # task id: how many tries more
        self.spoiling: set[str] = set()  # these make the whole batch fail

    def write(self, batch: Sequence[Record]) -> Mapping[Record, Exception]:
        self.batches.append(len(batch))
        if self.away.is_set():
            raise ResultsError("the store is away")
        if any(record.task_id in self.spoiling for record in batch):
            if len(batch) > 1:
                raise ResultsError("one of these is more than the store can bear")
            return {batch[0]: RefusedRecordError("more than the store can bear")}
        failed: dict[Record, Exception] = {}
        for record in batch:
            if record.task_id in self.refused:
                failed[record] = RefusedRecordError("not this one")
            elif self.failing.get(record.task_id, 0):
                self.failing[record.task_id] -= 1
                failed[record] = ResultsError("not just now")
            else:
                document = decode_meta(decode(record.body, record.content_type, record.content_encoding, ("json",)))
                self.written.append((record.task_id, document.result))
        return failed

    def upkeep(self) -> float:
        return 60.0

    @property
    def ids(self) -> list[str]:
        return [task_id for task_id, _ in self.written]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "RETRY_DELAY", 0.005)
    monkeypatch.setattr(writer_module, "RETRY_DELAY_MAX", 0.01)


@pytest.fixture
def store() -> Store:
    return Store()


class Writers:
    """Makes writers, and stops them at the end."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.made: list[ResultsWriter] = []
        self._store = store
        self._folder = folder

    def __call__(self, *, buffer_limit: int = 100, spill_bytes: int = 0) -> ResultsWriter:
        writer = ResultsWriter(self._store, "the store", "json", buffer_limit, Spill(self._folder, spill_bytes))
        writer.start()
        self.made.append(writer)
        return writer


@pytest.fixture
def make_writer(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writers]:
    writers = Writers(store, tmp_path / "state")
    yield writers
    monkeypatch.setattr(writer_module, "STOP_TIMEOUT", 0.05)
    for writer in writers.made:
        writer.stop()


def record(task_id: str, result: Any = None, status: str = SUCCESS, stored: Any = lambda: None) -> Record:
    return make_record(ResultMeta(task_id, status, result, date_done=NOW), "json", stored)


def put_many(writer: ResultsWriter, ids: Sequence[str], told: list[str] | None = None) -> None:
    told = [] if told is None else told
    for each in ids:
        writer.put(record(each, each, stored=lambda each=each: told.append(each)))


def numbers(count: int) -> list[str]:
    return [f"task-{number}" for number in range(count)]


def test_records_are_written_in_order_and_each_is_told_once(store: Store, make_writer: Writers) -> None:
    writer, told = make_writer(), []
    put_many(writer, numbers(500), told)
    assert writer.flush(10)
    assert store.ids == told == numbers(500)


def test_what_gathered_while_the_store_was_busy_goes_out_together(store: Store, make_writer: Writers) -> None:
    writer = make_writer(buffer_limit=1_000)
    store.away.set()
    put_many(writer, ["first"])
    wait_until(lambda: store.batches)
    put_many(writer, numbers(900))
    store.away.clear()
    assert writer.flush(10)
    assert max(store.batches) == writer_module.BATCH
    assert store.ids == ["first", *numbers(900)]


def test_nobody_is_told_before_the_store_has_it(store: Store, make_writer: Writers) -> None:
    writer, told = make_writer(), []
    store.away.set()
    put_many(writer, numbers(10), told)
    wait_until(lambda: len(store.batches) > 3, what="some tries")
    assert not told and not writer.flush(0)
    store.away.clear()
    assert writer.flush(10)
    assert told == numbers(10)


def test_an_outage_is_told_when_it_begins_and_when_it_ends(
    store: Store, make_writer: Writers, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer()
    store.away.set()
    put_many(writer, ["a"])
    wait_until(lambda: len(store.batches) > 20, what="many tries")
    store.away.clear()
    assert writer.flush(10)
    wait_until(lambda: "again, after" in caplog.text)
    assert caplog.text.count("not stored yet") == 1


def test_a_record_that_the_store_refuses_is_replaced_by_a_failure(
    store: Store, make_writer: Writers, caplog: pytest.LogCaptureFixture
) -> None:
    writer, told = make_writer(), []
    refused = record("bad", "x" * 10_000, stored=lambda: told.append("bad"))
    seen: list[tuple[str, int]] = []
    write = store.write

    def refuse_once(batch: Sequence[Record]) -> Mapping[Record, Exception]:
        seen.extend((each.meta.status, each.size) for each in batch)
        return {refused: RefusedRecordError("too large")} if refused in batch else write(batch)

    store.write = refuse_once  # type: ignore[method-assign]
    writer.put(refused)
    put_many(writer, numbers(5), told)
    assert writer.flush(10)
    [(_, result)] = [each for each in store.written if each[0] == "bad"]
    assert isinstance(result, UnstorableResultError) and "too large" in str(result)
    assert sorted(told) == sorted(["bad", *numbers(5)])
    assert seen[0][0] == SUCCESS and any(status == FAILURE and size < 1_000 for status, size in seen)
    assert "task bad" in caplog.text and "too large" in caplog.text


def test_a_replacement_that_is_refused_too_is_given_up(store: Store, make_writer: Writers) -> None:
    writer, told = make_writer(), []
    store.refused.add("bad")
    put_many(writer, ["bad", "good"], told)
    assert writer.flush(10)
    assert sorted(told) == ["bad", "good"] and store.ids == ["good"]


def test_a_refused_state_on_the_way_does_not_fail_the_task(store: Store, make_writer: Writers) -> None:
    writer = make_writer()
    store.refused.add("t")
    writer.put(record("t", {"done": 1}, "PROGRESS"))
    assert writer.flush(10)
    assert not store.written


def test_one_that_spoils_its_batch_is_found_and_the_others_are_stored(store: Store, make_writer: Writers) -> None:
    writer, told = make_writer(buffer_limit=1_000), []
    store.spoiling.add("task-150")
    store.away.set()
    put_many(writer, numbers(300), told)
    store.away.clear()
    assert writer.flush(10)
    assert set(told) == set(numbers(300))
    assert store.ids == [each for each in numbers(300) if each != "task-150"]


def test_a_state_that_fails_for_now_never_comes_behind_a_later_one(store: Store, make_writer: Writers) -> None:
    writer, told = make_writer(), []
    store.away.set()
    writer.put(record("warm-up"))
    wait_until(lambda: store.batches)
    writer.put(record("t", "old", STARTED, stored=lambda: told.append("old")))
    writer.put(record("t", "new", STARTED, stored=lambda: told.append("new")))
    store.failing["t"] = 1  # the first of the two fails, the second passes
    store.away.clear()
    assert writer.flush(10)
    assert [result for task_id, result in store.written if task_id == "t"] == ["new"]
    assert told == ["old", "new"]


def test_documents_that_memory_has_no_room_for_wait_in_the_file(
    store: Store, make_writer: Writers, tmp_path: Path
) -> None:
    writer, told = make_writer(buffer_limit=10, spill_bytes=1_000_000), []
    store.away.set()
    put_many(writer, numbers(1), told)
    wait_until(lambda: store.batches)
    put_many(writer, numbers(100)[1:], told)
    assert not writer.full
    assert writer._in_memory <= 10 and not writer._spill.empty
    assert list((tmp_path / "state").iterdir()) == [], (
        "the file has no name, so that nothing is left of a killed worker"
    )
    store.away.clear()
    assert writer.flush(10)
    assert store.written == [(each, each) for each in numbers(100)]
    assert told == numbers(100)
    assert writer._spill.empty and writer._in_memory == writer._in_memory_bytes == 0


def test_it_is_full_at_the_bound_and_not_before_and_there_is_room_when_most_is_stored(
    store: Store, make_writer: Writers
) -> None:
    writer = make_writer(buffer_limit=10, spill_bytes=20 * SMALLEST_COUNT_BYTES)
    store.away.set()
    put_many(writer, numbers(1))
    wait_until(lambda: store.batches)
    put_many(writer, numbers(30)[1:])
    assert not writer.full
    put_many(writer, ["over", "and more"])
    assert writer.full
    wait_until(lambda: len(store.batches) > 5, what="some more tries")
    assert writer.full
    store.away.clear()
    assert writer.flush(10)
    assert not writer.full
    assert store.ids == [*numbers(30), "over", "and more"]


def test_few_large_documents_are_too_much_for_memory_as_well(
    store: Store, make_writer: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "BUFFER_BYTES", 50_000)
    writer = make_writer(buffer_limit=1_000, spill_bytes=10_000_000)
    store.away.set()
    put_many(writer, ["first"])
    wait_until(lambda: store.batches)
    for each in numbers(20):
        writer.put(record(each, f"{each}:" + "x" * 10_000))
    assert writer._in_memory_bytes <= 50_000 and not writer.full
    store.away.clear()
    assert writer.flush(10)
    assert [result.partition(":")[0] for _, result in store.written] == ["first", *numbers(20)]


def test_where_no_file_can_be_made_memory_is_the_bound(
    store: Store, make_writer: Writers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("this is no folder")
    writer = make_writer(buffer_limit=10, spill_bytes=1_000_000)
    store.away.set()
    put_many(writer, numbers(30))
    assert writer.full
    assert caplog.text.count("cannot be kept in a file") == 1
    store.away.clear()
    assert writer.flush(10) and store.ids == numbers(30) and not writer.full


def test_a_document_that_cannot_be_read_back_becomes_a_failure(store: Store, make_writer: Writers) -> None:
    writer, told = make_writer(buffer_limit=1, spill_bytes=1_000_000), []
    store.away.set()
    put_many(writer, ["memory"])
    wait_until(lambda: store.batches)
    put_many(writer, ["file"], told)
    spilled = writer._spill._file
    assert spilled is not None
    spilled.truncate(3)
    store.away.clear()
    assert writer.flush(10)
    assert told == ["file"]
    [(_, result)] = [each for each in store.written if each[0] == "file"]
    assert isinstance(result, UnstorableResultError) and "read back" in str(result)


def test_a_caller_that_nothing_bounds_waits_for_room_and_others_do_not(store: Store, make_writer: Writers) -> None:
    writer = make_writer(buffer_limit=5)
    store.away.set()
    put_many(writer, numbers(20))
    assert writer.full
    passed = threading.Event()

    def progress() -> None:
        writer.put(record("progress", status="PROGRESS", stored=None))
        passed.set()

    threading.Thread(target=progress, daemon=True).start()
    put_many(writer, ["another"])
    assert not passed.wait(0.2)
    store.away.clear()
    assert passed.wait(10)
    assert writer.flush(10)


def test_a_callback_may_store_and_may_fail(
    store: Store, make_writer: Writers, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer()

    def again() -> None:
        writer.put(record("second"))
        raise RuntimeError("the caller's fault")

    writer.put(record("first", stored=again))
    wait_until(lambda: store.ids == ["first", "second"])
    assert "the caller's fault" in caplog.text


def test_stop_says_how_many_are_lost_and_who_waits_is_told(
    store: Store, make_writer: Writers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer_module, "STOP_TIMEOUT", 0.1)
    writer, told = make_writer(buffer_limit=2), []
    store.away.set()
    put_many(writer, numbers(3), told)
    failed = threading.Event()

    def waits() -> None:
        with pytest.raises(ResultsError, match="stopped"):
            writer.put(record("late", stored=None))
        failed.set()

    threading.Thread(target=waits, daemon=True).start()
    writer.stop()
    assert failed.wait(10)
    assert "3 results are not stored" in caplog.text
    assert not told
    with pytest.raises(ResultsError, match="stopped"):
        writer.put(record("later"))


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    puts=strategies.lists(
        strategies.tuples(strategies.integers(0, 5), strategies.integers(0, 3), strategies.sampled_from("apr")),
        min_size=1,
        max_size=60,
    ),
    buffer_limit=strategies.integers(1, 20),
    spilled=strategies.integers(0, 20),
)
def test_whatever_fails_in_between_the_last_state_of_each_task_is_there(
    puts: list[tuple[int, int, str]], buffer_limit: int, spilled: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """``puts``: task, how often this task fails just now, and (a) store away, (p) passing, (r) result refused once."""
    store = Store()
    spill = Spill(tmp_path_factory.getbasetemp() / "spill", spilled * SMALLEST_COUNT_BYTES)
    writer = ResultsWriter(store, "the store", "json", buffer_limit, spill)
    told: list[int] = []
    last: dict[str, int] = {}
    for index, (task, failures, event) in enumerate(puts):
        store.away.set() if event == "a" else store.away.clear()
        store.failing[str(task)] = failures
        last[str(task)] = index
        writer.put(record(str(task), index, RETRY if event == "r" else STARTED, lambda index=index: told.append(index)))
    store.away.clear()
    assert writer.flush(20)
    writer.stop()
    latest = dict(store.written)
    assert {task: latest[task] for task in last} == last
    for task in last:
        results = [result for task_id, result in store.written if task_id == task]
        assert results == sorted(results)
    assert sorted(told) == list(range(len(puts)))
