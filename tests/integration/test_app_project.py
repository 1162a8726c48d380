"""A small Celery project, moved by changing its imports alone: shared tasks found by autodiscover, a base class with
hooks, a class-based task, one whose class wraps its body. Real workers run it; Celery's own says what is right.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from greenworker import App
from greenworker.settings import load_settings
from tests.support.celery_worker import CeleryWorker
from tests.support.worker import Worker, wait_until, write_ini

PROJECT = {
    "proj/__init__.py": "",
    "proj/shop/__init__.py": "",
    "proj/mail/__init__.py": "",
    "proj/empty/__init__.py": "",
    "proj/app.py": """
import os
from celery import Celery

app = Celery("proj", broker=os.environ["BROKER"])
app.autodiscover_tasks(["proj.shop", "proj.mail", "proj.empty"])
""",
    "proj/base.py": """
import json
import os
from celery import Task


def note(what, task_id, *told):
    notes = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(notes, (json.dumps([task_id, what, *told]) + "\\n").encode())
    os.close(notes)


class Noted(Task):
    default_retry_delay = 0
    max_retries = 1

    def before_start(self, task_id, args, kwargs):
        note("before_start", task_id, list(args), kwargs, self.request.id == task_id)

    def on_success(self, retval, task_id, args, kwargs):
        note("on_success", task_id, retval, list(args), kwargs)

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        note("on_failure", task_id, repr(exc), list(args), kwargs, str(exc) in einfo.traceback)

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        note("on_retry", task_id, repr(exc), list(args), kwargs, str(exc) in einfo.traceback)

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        note("after_return", task_id, status, repr(retval), list(args), kwargs)
""",
    "proj/shop/tasks.py": """
from celery import shared_task
from proj.base import Noted, note


@shared_task(base=Noted)
def add(x, y):
    return x + y


@shared_task(base=Noted, bind=True)
def fails(self, text):
    raise ValueError(text)


@shared_task(base=Noted, bind=True)
def flaky(self):
    if not self.request.retries:
        raise self.retry(exc=KeyError("again"))
    return self.request.retries


@shared_task(base=Noted, bind=True)
def gives_up(self):
    raise self.retry(exc=KeyError("again"))


@shared_task(bind=True)
def sends_another(self):
    note("sent", self.request.id, add.delay(1, y=1).id != self.request.id)
""",
    "proj/mail/tasks.py": """
from celery import Task
from proj.app import app
from proj.base import Noted, note


class Send(Noted):
    name = "mail.send"
    ignore_result = True

    def __init__(self):
        self.sent = 0

    def run(self, to, text=""):
        self.sent += 1
        return [to, text, self.sent, self.max_retries, self.request.retries]


app.register_task(Send())


class InContext(Task):
    inside = False

    def __call__(self, *args, **kwargs):
        self.inside = True
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self.inside = False


@app.task(base=InContext, bind=True, name="mail.inside")
def inside(self, x):
    note("inside", self.request.id, x, self.inside, self.request.called_directly)
""",
}
KWARGS = {"y": 2}
RUNS: dict[tuple[str, tuple[Any, ...], str], list[list[Any]]] = {
    ("proj.shop.tasks.add", (1,), json.dumps(KWARGS)): [
        ["before_start", [1], KWARGS, True],
        ["on_success", 3, [1], KWARGS],
        ["after_return", "SUCCESS", "3", [1], KWARGS],
    ],
    ("proj.shop.tasks.fails", ("no",), "{}"): [
        ["before_start", ["no"], {}, True],
        ["on_failure", "ValueError('no')", ["no"], {}, True],
        ["after_return", "FAILURE", "ValueError('no')", ["no"], {}],
    ],
    ("proj.shop.tasks.flaky", (), "{}"): [
        ["before_start", [], {}, True],
        ["on_retry", "KeyError('again')", [], {}, True],
        ["before_start", [], {}, True],
        ["on_success", 1, [], {}],
        ["after_return", "SUCCESS", "1", [], {}],
    ],
    ("proj.shop.tasks.gives_up", (), "{}"): [
        ["before_start", [], {}, True],
        ["on_retry", "KeyError('again')", [], {}, True],
        ["before_start", [], {}, True],
        ["on_failure", "KeyError('again')", [], {}, True],
        ["after_return", "FAILURE", "KeyError('again')", [], {}],
    ],
    ("mail.send", ("me",), '{"text": "hi"}'): [
        ["before_start", ["me"], {"text": "hi"}, True],
        ["on_success", ["me", "hi", 1, 1, 0], ["me"], {"text": "hi"}],
        ["after_return", "SUCCESS", "['me', 'hi', 1, 1, 0]", ["me"], {"text": "hi"}],
    ],
    ("mail.inside", (7,), "{}"): [["inside", 7, True, False]],
    ("proj.shop.tasks.sends_another", (), "{}"): [["sent", True]],
}


def moved(source: str) -> str:
    """The project's source after the change of import."""
    source = source.replace("from celery import Celery", "from greenworker import App as Celery")
    return source.replace("from celery import", "from greenworker import")


@dataclass
class Running:
    """The project served by a worker, and an App that sends to it."""

    client: App
    notes: Path

    def of(self, task_id: str) -> list[list[Any]]:
        lines = self.notes.read_text().splitlines(keepends=True) if self.notes.exists() else []
        noted = [json.loads(line) for line in lines if line.endswith("\n")]
        return [told for noted_id, *told in noted if noted_id == task_id]

    def wait_for(self, task_id: str, count: int) -> list[list[Any]]:
        """What was noted of the task, once there are ``count`` notes."""
        wait_until(lambda: len(self.of(task_id)) >= count, 15.0, f"{count} notes of {task_id}")
        return self.of(task_id)


@contextlib.contextmanager
def serving(kind: str, folder: Path, url: str) -> Iterator[Running]:
    environ = {"BROKER": url, "NOTES": str(folder / "notes")}
    client = App("client", settings=load_settings(overrides={("broker", "url"): url}, environ={}), set_as_current=False)
    with contextlib.ExitStack() as stack:
        stack.enter_context(client)
        if kind == "celery":
            for name, source in PROJECT.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(source)
            environ["PYTHONPATH"] = str(folder)
            # solo: elsewhere the next try may run before on_retry of this one, which Celery calls after it was sent
            stack.enter_context(CeleryWorker(folder, "proj.app:app", environ, pool="solo"))
        else:
            files = {name: moved(source) for name, source in PROJECT.items()}
            ini = {"worker": {"pool": kind, "concurrency": 4}, "log": {"format": "text"}}
            stack.enter_context(Worker(folder, app="proj.app:app", ini=ini, files=files, environ=environ))
        yield Running(client, folder / "notes")


@pytest.mark.parametrize(
    ("kind", "broker"),
    [
        ("gevent", "sqlite"),
        ("gevent", "rabbitmq"),
        ("celery", "rabbitmq"),
        pytest.param("eventlet", "sqlite", marks=pytest.mark.full),
        pytest.param("threads", "sqlite", marks=pytest.mark.full),
    ],
)
def test_the_project_runs_as_before(kind: str, broker: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path}/broker.db" if broker == "sqlite" else request.getfixturevalue("rabbitmq_url")
    with serving(kind, tmp_path, url) as running:
        for (task, args, kwargs), expected in RUNS.items():
            task_id = running.client.send_task(task, args, json.loads(kwargs)).id
            assert running.wait_for(task_id, len(expected)) == expected


def test_routes_of_the_settings_decide_for_a_running_project(tmp_path: Path, rabbitmq_url: str) -> None:
    """A client with routes, and a worker that serves only where they lead; the task's retry stays there."""
    file = write_ini(
        tmp_path / "client.ini",
        {
            "broker": {"url": rabbitmq_url},
            "route proj.*": {"queue": "proj"},
            "route proj.shop.tasks.add": {"queue": "x"},
        },
    )
    files = {name: moved(source) for name, source in PROJECT.items()}
    environ = {"BROKER": rabbitmq_url, "NOTES": str(tmp_path / "notes")}
    client = App(
        "client", config=file, set_as_current=False, router=lambda name, *call: {"mail.send": "proj"}.get(name)
    )
    ini = {"worker": {"queues": "proj", "concurrency": 4}}
    with client, Worker(tmp_path, app="proj.app:app", ini=ini, files=files, environ=environ) as worker:
        running = Running(client, tmp_path / "notes")
        elsewhere = client.send_task("proj.shop.tasks.add", (1, 2)).id
        running.wait_for(client.send_task("proj.shop.tasks.flaky").id, 5)
        running.wait_for(client.send_task("mail.send", ("me",)).id, 3)
        assert worker.stop() == 0
        assert running.of(elsewhere) == []
