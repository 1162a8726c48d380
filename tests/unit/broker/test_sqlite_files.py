"""Opening the queue file: who creates, with which modes, and what an operator reads when it does not open."""

from __future__ import annotations

import grp
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenworker.broker.connection import ConnectionLostError
from greenworker.broker.publisher import PublisherOptions
from greenworker.broker.sqlite.publisher import SqlitePublisher
from greenworker.broker.sqlite.schema import QUEUE_SCHEMA
from greenworker.broker.sqlite.source import SqliteOptions
from greenworker.broker.sqlite.store import QueueStore, StoreOptions
from greenworker.errors import PublishError, StateFolderError
from tests.support.queue_file import Consumer, outgoing, publish

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as several users")
GROUP = "nogroup"
STRANGER = 65_533  # no user and no group of any machine


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def create(path: Path, **options: object) -> QueueStore:
    return QueueStore(path, StoreOptions(create=True, **options))  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "greenworker.db"


def test_the_worker_makes_folder_and_files_that_only_it_can_write(path: Path) -> None:
    store = create(path)
    assert mode(path.parent) == 0o750
    assert mode(path) == 0o640
    assert mode(path.with_name("greenworker.db.wake")) == 0o750
    assert mode(path.with_name("greenworker.db-wal")) == 0o640
    store.close()


def test_modes_are_not_left_to_the_umask(path: Path) -> None:
    before = os.umask(0o077)
    try:
        store = create(path, file_group=grp.getgrgid(os.getegid()).gr_name)
    finally:
        os.umask(before)
    assert mode(path.parent) == 0o2770
    assert mode(path) == 0o660
    assert mode(path.with_name("greenworker.db-shm")) == 0o660
    store.close()


def test_a_producer_never_makes_a_missing_file(path: Path) -> None:
    with pytest.raises(StateFolderError) as told:
        publish(path, outgoing())
    assert str(path) in str(told.value)
    assert "[broker] url" in str(told.value)
    assert "GREENWORKER_CONFIG" in str(told.value)
    assert not path.parent.exists()
    path.parent.mkdir()
    with pytest.raises(StateFolderError, match="only the worker creates it"):
        publish(path, outgoing())
    assert list(path.parent.iterdir()) == []


def test_a_producer_does_not_make_tables_in_an_empty_file(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with pytest.raises(StateFolderError, match="has no tables yet"):
        publish(path, outgoing())
    assert path.stat().st_size == 0
    create(path).close()
    publish(path, outgoing())


def test_a_file_of_a_newer_version_is_not_touched(path: Path) -> None:
    create(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {QUEUE_SCHEMA.version + 1}")
    db.close()
    with pytest.raises(StateFolderError, match=r"newer greenworker.*upgrade"):
        create(path)


@pytest.mark.parametrize("version", [0, 1])
def test_another_programs_database_is_not_touched(path: Path, version: int) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE accounts (id)")
        db.execute(f"PRAGMA user_version = {version}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StateFolderError, match="something else"):
        create(path)
    assert path.read_bytes() == before


def test_a_damaged_file_says_how_to_save_what_can_be_saved(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all " * 400)
    with pytest.raises(StateFolderError, match=r"damaged.*-wal.*recover"):
        create(path)


def test_damage_while_in_use_is_told_as_such(path: Path) -> None:
    consumer = Consumer(path)
    publish(path, *[outgoing("x" * 3_000)] * 50)
    consumer.source._store.read("PRAGMA wal_checkpoint(TRUNCATE)")
    publisher = SqlitePublisher(path)
    with path.open("r+b") as raw:
        raw.seek(4096)
        raw.write(os.urandom(path.stat().st_size - 4096))
    with pytest.raises(ConnectionLostError, match="damaged"):
        consumer.take(50)
    with pytest.raises((PublishError, StateFolderError), match="damaged"):
        publisher.publish([outgoing()] * 50)
    publisher.close()
    consumer.close()


def test_a_full_disk_loses_nothing_and_is_told(path: Path) -> None:
    consumer = Consumer(path, prefetch=10)
    publisher = SqlitePublisher(path)
    publisher.publish([outgoing("kept")] * 5)
    store = publisher._open()[0]
    pages = store.read("PRAGMA page_count")[0][0]
    store.read(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(PublishError, match="no space left"):
        publisher.publish([outgoing("x" * 100_000)])
    store.read("PRAGMA max_page_count = 1000000")
    publisher.publish([outgoing("after")])
    assert [delivery.envelope.body for delivery in consumer.take(6)] == ["kept"] * 5 + ["after"]
    publisher.close()
    consumer.close()


def test_a_lock_that_another_process_keeps_ends_in_an_error(path: Path) -> None:
    create(path).close()
    holder = sqlite3.connect(path, isolation_level=None)
    publisher = SqlitePublisher(path)
    publisher._open()
    holder.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(PublishError, match="locked"):
        publisher.publish([outgoing()], timeout=0.2)
    assert time.monotonic() - started < 5
    holder.execute("ROLLBACK")
    publisher.publish([outgoing()])
    publisher.close()
    holder.close()


def test_a_lock_that_is_given_up_is_waited_for(path: Path) -> None:
    create(path).close()
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    threading.Timer(0.2, holder.execute, ["ROLLBACK"]).start()
    publish(path, outgoing())
    store = create(path)
    assert store.size("celery") == 1
    store.close()
    holder.close()


def test_a_wake_folder_that_cannot_be_used_is_told(path: Path) -> None:
    create(path).close()
    folder = path.with_name("greenworker.db.wake")
    folder.rmdir()
    folder.symlink_to(path.parent / "nowhere")
    with pytest.raises(StateFolderError, match=r"greenworker\.db\.wake|greenworker\.db "):
        Consumer(path)


def test_only_known_values_of_synchronous(path: Path) -> None:
    with pytest.raises(ValueError, match="normal, full"):
        create(path, synchronous="off")
    store = create(path, synchronous="full")
    assert store.read("PRAGMA synchronous") == [(2,)]
    assert store.read("PRAGMA journal_mode") == [("wal",)]
    store.close()


def test_many_workers_may_make_the_file_at_the_same_moment(path: Path) -> None:
    code = (
        "import sys, pathlib; from greenworker.broker.sqlite.store import *;"
        " QueueStore(pathlib.Path(sys.argv[1]), StoreOptions(create=True)).close()"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(6)]
    assert [child.wait(30) for child in children] == [0] * 6


def test_an_unknown_group_is_an_error_that_names_the_setting(path: Path) -> None:
    with pytest.raises(StateFolderError, match=r"\[broker\] file_group.*no-such-group"):
        create(path, file_group="no-such-group")
    assert not path.exists()


def test_a_file_that_was_replaced_is_not_written_to(path: Path) -> None:
    consumer = Consumer(path)
    publisher = SqlitePublisher(path)
    publisher.publish([outgoing("old")])
    for each in path.parent.glob("greenworker.db*"):
        if each.is_file():
            each.rename(each.with_name("old-" + each.name))
    with pytest.raises(StateFolderError, match="does not exist"):
        publisher.publish([outgoing("nobody would read this")])
    with pytest.raises(ConnectionLostError, match="moved away or deleted"):
        consumer.pump_until(lambda: False, timeout=10)
    consumer.close()
    anew = Consumer(path)
    publisher.publish([outgoing("new")])
    assert anew.take(1)[0].envelope.body == "new"
    publisher.close()
    anew.close()


# --- several users ----------------------------------------------------------------------------------------------------


# imported as root: the interpreter's folder may be root's own
PRODUCE = """
from tests.support.queue_file import outgoing, publish
publish(Path(sys.argv[1]), outgoing("from another user"))
"""
IMPORTED_FIRST = """
import sys, os
from pathlib import Path
import greenworker.broker.sqlite.publisher, greenworker.broker.sqlite.transport, tests.support.queue_file, pwd, grp
import greenworker.errors
"""


def produce_as(uid: int, gid: int, path: Path) -> subprocess.CompletedProcess[str]:
    code = IMPORTED_FIRST + f"os.setgroups([]); os.setgid({gid}); os.setuid({uid})\n" + PRODUCE
    return subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A path whose upper folders everyone may enter; pytest's own temporary folders are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="everyone-"))
    folder.chmod(0o755)
    yield folder / "state" / "greenworker.db"
    shutil.rmtree(folder)


@needs_root
def test_a_member_of_the_configured_group_can_produce_and_wakes_the_worker(open_path: Path) -> None:
    gid = grp.getgrnam(GROUP).gr_gid
    consumer = Consumer(open_path, options=SqliteOptions(file_group=GROUP))
    assert (open_path.stat().st_gid, open_path.parent.stat().st_gid) == (gid, gid)
    consumer.settle_down()
    done = produce_as(STRANGER, gid, open_path)
    assert done.returncode == 0, done.stderr
    consumer.source._waiter.wait(consumer.source._upkeep.bell.fileno(), 5.0)
    assert consumer.take(1)[0].envelope.body == "from another user"
    consumer.close()


@needs_root
def test_a_member_may_produce_while_no_worker_runs_and_the_worker_reads_it_later(open_path: Path) -> None:
    gid = grp.getgrnam(GROUP).gr_gid
    create(open_path, file_group=GROUP).close()  # the last one to close removes -wal and -shm: the producer makes them
    done = produce_as(STRANGER, gid, open_path)
    assert done.returncode == 0, done.stderr
    consumer = Consumer(open_path, options=SqliteOptions(file_group=GROUP))
    assert consumer.take(1)[0].envelope.body == "from another user"
    consumer.close()


@needs_root
def test_a_stranger_reads_who_owns_the_file_and_what_to_do(open_path: Path) -> None:
    store = create(open_path, file_group=GROUP)
    done = produce_as(STRANGER, STRANGER, open_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "StateFolderError" in last
    for part in (str(open_path), str(STRANGER), "root:nogroup", "2770", "file_group", "[broker] url"):
        assert part in last, last
    store.close()


@needs_root
def test_an_existing_folder_of_our_own_is_opened_to_the_group(open_path: Path) -> None:
    open_path.parent.mkdir(mode=0o750)  # as systemd's StateDirectory= makes it
    create(open_path, file_group=GROUP).close()
    assert mode(open_path.parent) == 0o2770
    assert open_path.parent.stat().st_gid == grp.getgrnam(GROUP).gr_gid


@needs_root
def test_a_folder_that_holds_other_things_is_left_alone(open_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_path.parent.mkdir(mode=0o755)
    open_path.with_name("something-else").touch()
    create(open_path, file_group=GROUP).close()
    assert mode(open_path.parent) == 0o755
    assert "chgrp nogroup" in caplog.text


@needs_root
def test_a_worker_that_is_no_member_of_the_group_is_told_so(open_path: Path) -> None:
    open_path.parent.mkdir()
    os.chown(open_path.parent, STRANGER, STRANGER)
    code = IMPORTED_FIRST + (
        f"os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})\n"
        "from greenworker.broker.sqlite.store import *\n"
        f"QueueStore(Path(sys.argv[1]), StoreOptions(create=True, file_group={GROUP!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(open_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "no member of it" in done.stderr


def test_publisher_options_reach_the_file(path: Path) -> None:
    create(path).close()
    publisher = SqlitePublisher(path, PublisherOptions(synchronous="full"))
    assert publisher._open()[0].read("PRAGMA synchronous") == [(2,)]
    publisher.close()
