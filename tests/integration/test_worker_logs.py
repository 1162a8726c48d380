"""What a real worker prints: whose line it is, in text and JSON; nothing where it is silenced; never a password."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from greenworker import App
from greenworker.errors import EXIT_CONFIG
from greenworker.settings import load_settings
from tests.support.journal import Journal
from tests.support.rabbitmq import free_port
from tests.support.worker import Worker, run, write_ini

APP = "tests.support.semantics_tasks:app"
GREEN_POOLS = ("gevent", "eventlet")
PASSWORD = "s3cret-of-the-shop"
SPAWNED = {
    "gevent": {"from gevent.spawn", "from gevent.spawn_later", "from a gevent pool"},
    "eventlet": {"from eventlet.spawn", "from eventlet.spawn_after", "from eventlet.spawn_n", "from a GreenPool"},
}
ANYWHERE = {"from the task", "from a thread", "from a grandchild", "from the task again"}
COROUTINES = {"from a coroutine", "from an asyncio task", "from a native thread"}


def ini_of(folder: Path, pool: str, **log: str) -> dict[str, dict[str, Any]]:
    return {
        "worker": {"pool": pool, "concurrency": 4},
        "broker": {"url": f"sqlite:///{folder}/broker.db"},
        "results": {"url": f"sqlite:///{folder}/results.db"},
        "log": log,
    }


def client(ini: dict[str, dict[str, Any]]) -> App:
    overrides = {(section, "url"): str(ini[section]["url"]) for section in ("broker", "results")}
    return App("client", settings=load_settings(overrides=overrides, environ={}))


def said_in_tasks(output: str, log_format: str) -> Iterable[tuple[str, str | None, str | None]]:
    """What the tasks' own logger said: message, id and name of the task."""
    for line in output.splitlines():
        if log_format == "json" and line.startswith("{"):
            record = json.loads(line)
            if record["logger"] == "semantics":
                yield record["message"], record.get("task_id"), record.get("task_name")
        elif log_format == "text" and (found := re.search(r" semantics(?: \[([\w.]+)\[(.+?)\]\])?: (.*)$", line)):
            name, task_id, message = found.groups()
            yield message, task_id, name


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("pool", GREEN_POOLS)
def test_every_line_from_inside_a_task_tells_which(pool: str, log_format: str, tmp_path: Path) -> None:
    """From the task, and from whatever it spawned, by whichever way; of two tasks at once too."""
    ini = ini_of(tmp_path, pool, format=log_format)
    journal = Journal(tmp_path / "journal")
    with Worker(tmp_path, app=APP, ini=ini, environ=journal.environ) as worker, client(ini) as app:
        results = [app.send_task(f"semantics.{name}") for name in ("logs", "logs", "async_logs")]
        for result in results:
            result.get(15)
        assert worker.stop() == 0
    said = list(said_in_tasks(worker.output, log_format))
    for result in results[:2]:
        lines = {message for message, task_id, name in said if (task_id, name) == (result.id, "semantics.logs")}
        assert lines == ANYWHERE | SPAWNED[pool]
    lines = {message for message, task_id, _ in said if task_id == results[2].id}
    assert lines == COROUTINES
    assert len(said) == 2 * len(ANYWHERE | SPAWNED[pool]) + len(COROUTINES), "a line without a task"


@pytest.mark.parametrize("pool", GREEN_POOLS)
def test_coroutines_and_tasks_log_at_once(pool: str, tmp_path: Path) -> None:
    """Coroutines log from a native thread: its lines and the greenlets' must neither stop each other nor mix.

    Through the worker's handler, and through one that the app has made.
    """
    own = tmp_path / "own.log"
    ini = ini_of(tmp_path, pool, format="json", tasks="DEBUG")
    journal = Journal(tmp_path / "journal")
    environ = {**journal.environ, "TASKS_LOG": str(own)}
    with Worker(tmp_path, app=APP, ini=ini, environ=environ) as worker, client(ini) as app:
        names = ["semantics.async_chatter", "semantics.chatter"] * 4
        results = [app.send_task(name, [number]) for number, name in enumerate(names)]
        for result in results:
            result.get(30)
        assert worker.stop() == 0
    said = [message for message, _, _ in said_in_tasks(worker.output, "json")]
    expected = sorted(f"{number} {line}" for number in range(8) for line in range(500))
    assert sorted(said) == expected
    assert sorted(own.read_text().splitlines()) == expected


def test_received_and_done_lines(tmp_path: Path) -> None:
    """One line each; at their own level, so that they can be silenced, and failures cannot."""
    journal = Journal(tmp_path / "journal")
    for tasks, expected in (("INFO", 1), ("DEBUG", 0)):
        folder = tmp_path / tasks
        ini = ini_of(folder, "gevent", format="text", tasks=tasks)
        with Worker(folder, app=APP, ini=ini, environ=journal.environ) as worker, client(ini) as app:
            result, failed = app.send_task("semantics.add", [1]), app.send_task("semantics.fail", ["in vain"])
            result.get(15)
            failed.get(15, propagate=False)
            worker.wait_for_line(rf"ERROR .*Task semantics\.fail\[{failed.id}\] raised ShopError: .*in vain")
            assert worker.stop() == 0
        received = rf"INFO .*Task semantics\.add\[{result.id}\] received$"
        done = rf"INFO .*Task semantics\.add\[{result.id}\] succeeded in \d+\.\d+s: 1$"
        for pattern in (received, done):
            assert len(re.findall(pattern, worker.output, re.MULTILINE)) == expected, pattern


# --- passwords --------------------------------------------------------------------------------------------------------


def test_a_password_is_never_printed(rabbitmq_url: str, tmp_path: Path) -> None:
    """Not in the banner, nor in errors at connecting and publishing, at debug level, of brokers there or not."""
    password = "guest:guest@"
    wrong = rabbitmq_url.replace(password, f"guest:{PASSWORD}@")
    away = f"amqp://shop:{PASSWORD}@127.0.0.1:{free_port()}//"
    journal = Journal(tmp_path / "journal")
    ini = {"broker": {"url": f"{away} {wrong} {rabbitmq_url}", "connect_timeout": "1s"}, "log": {"level": "DEBUG"}}
    worker = Worker(tmp_path, app=APP, ini=ini, environ=journal.environ)
    with worker:
        assert f"amqp://shop:***@{away.partition('@')[2].rstrip('/')}" in worker.output
        assert "login refused" in worker.output
        assert "connection refused" in worker.output
        assert worker.stop() == 0
    assert PASSWORD not in worker.output
    assert password not in worker.output


def test_a_password_on_the_command_line_is_warned_of(rabbitmq_url: str, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    arguments = ["-b", rabbitmq_url]
    with Worker(
        tmp_path, app=APP, arguments=arguments, environ=journal.environ, ini={"log": {"format": "text"}}
    ) as worker:
        worker.wait_for_line(
            r"WARNING .*\[broker\] url was given on the command line, where every user sees it; put it in an INI"
        )
        assert worker.stop() == 0
    assert "guest:guest" not in worker.output


def test_no_warning_for_what_is_no_secret(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    arguments = ["-b", f"sqlite:///{tmp_path}/broker.db"]
    with Worker(tmp_path, app=APP, arguments=arguments, environ=journal.environ, ini={}) as worker:
        assert worker.stop() == 0
    assert "command line" not in worker.output


def test_a_password_in_a_wrong_setting_is_not_printed(tmp_path: Path) -> None:
    write_ini(tmp_path / "worker.ini", {"broker": {"url": f"no-scheme//shop:{PASSWORD}@host", "pasword": PASSWORD}})
    done = run(tmp_path, "worker", "-A", APP, "-C", "worker.ini", "-b", f"nonsense:{PASSWORD}@x")
    assert done.returncode == EXIT_CONFIG
    assert "worker.ini:3: unknown key 'pasword'" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr
