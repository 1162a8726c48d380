"""Bad input: each kind is told with what came and what was expected, costs no message, and the worker goes on.

Messages are published with plain kombu, as whatever a client got wrong, and the dead-letter queues are read with it.
"""

from __future__ import annotations

import json
import pickle
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kombu
import msgpack
import pytest

from greenworker import App
from greenworker.errors import EXIT_CONFIG, EXIT_UNAVAILABLE, EXIT_USAGE
from greenworker.protocol.results import FAILURE
from greenworker.settings import load_settings
from tests.support.dead_letters import Letter, wait_dead_letters
from tests.support.journal import Journal
from tests.support.proxy import Proxy
from tests.support.rabbitmq import RabbitMQ, free_port
from tests.support.worker import Worker, run, wait_until, write_ini

APP = "tests.support.semantics_tasks:app"
JSON = "application/json"
MEGABYTE = 1_000_000


@dataclass
class Bad:
    """A message that no task can be made of: what is published, and what the reason must say of it."""

    reason: str  # a regular expression
    body: Any = "[[], {}, {}]"
    headers: Mapping[str, Any] = field(default_factory=dict)
    content_type: str | None = JSON
    content_encoding: str | None = "utf-8"
    kind: str = "malformed"


def saying(**headers: Any) -> dict[str, Any]:
    """Headers of protocol 2, with these changed."""
    return {"id": "an-id", "task": "semantics.add", "lang": "py", **headers}


def first_protocol(**fields: Any) -> str:
    """A body of protocol 1."""
    return json.dumps({"task": "semantics.add", "id": "an-id", "args": [1], "kwargs": {}, **fields})


BAD: Mapping[str, Bad] = {
    "no JSON": Bad(r"body: expected application/json, but .*; got b'not json at all'", "not json at all", saying()),
    "empty": Bad(r"body: expected", "", saying()),
    "cut off": Bad(r"body: expected .*json", '[[1], {"x": ', saying()),
    "not UTF-8": Bad(r"body: expected .*utf-8", b"[[\xff\xfe], {}, {}]", saying()),
    "a number": Bad(r"body: expected \[args, kwargs, embed\], got 42", "42", saying()),
    "two parts": Bad(r"body: expected \[args, kwargs, embed\], got", "[[], {}]", saying()),
    "nested too deep": Bad(r"body: .*(depth|levels of nesting)", "[" * 5000 + "]" * 5000, saying()),
    "no task": Bad(r"no task: expected the header 'task' .*; got headers \['x', 'case'\]", headers={"x": 1}),
    "no headers at all": Bad(r"no task: expected the header 'task'", "[]"),
    "task is a number": Bad(r"task: expected text, got 7", headers=saying(task=7)),
    "task is empty": Bad(r"task: expected text that is not empty", headers=saying(task="")),
    "id is missing": Bad(r"id: expected text that is not empty, got nothing", headers={"task": "semantics.add"}),
    "id is a list": Bad(r"id: expected text, got \['x'\]", headers=saying(id=["x"])),
    "id is too long": Bad(r"id: expected at most 255 bytes", headers=saying(id="x" * 300)),
    "args are a mapping": Bad(r"args: expected a list, got \{'x': 1\}", '[{"x": 1}, {}, {}]', saying()),
    "args are text": Bad(r"args: expected a list, got 'abc'", '["abc", {}, {}]', saying()),
    "kwargs are a list": Bad(r"kwargs: expected a mapping, got \[1\]", "[[], [1], {}]", saying()),
    "ETA is no date": Bad(r"eta: expected an ISO 8601 date, got 'tomorrow'", headers=saying(eta="tomorrow")),
    "expires is no date": Bad(r"expires: expected an ISO 8601 date, got '31.12.'", headers=saying(expires="31.12.")),
    "retries are text": Bad(r"retries: expected a whole number .*, got '3'", headers=saying(retries="3")),
    "retries are negative": Bad(r"retries: expected a whole number .*, got -1", headers=saying(retries=-1)),
    "timelimit is a number": Bad(r"timelimit: expected \[hard, soft\], got 5", headers=saying(timelimit=5)),
    "protocol 1, args are text": Bad(r"args: expected a list, got 'abc'", first_protocol(args="abc")),
    "protocol 1, ETA is no date": Bad(r"eta: expected an ISO 8601 date, got 'soon'", first_protocol(eta="soon")),
    "unknown task": Bad(
        r"no task is named 'semantics\.ad' .*did you mean .*'semantics\.add'",
        headers=saying(task="semantics.ad"),
        kind="unknown",
    ),
    "pickle": Bad(
        r"'application/x-python-serialize' is not accepted: \[broker\] accept names json",
        pickle.dumps([[], {}, {}]),
        saying(),
        "application/x-python-serialize",
        "binary",
    ),
    "yaml": Bad(r"yaml.*\[broker\] accept", "[[], {}, {}]", saying(), "application/x-yaml"),
    "msgpack": Bad(
        r"msgpack.*\[broker\] accept", msgpack.dumps([[], {}, {}]), saying(), "application/x-msgpack", "binary"
    ),
    "a content type nobody knows": Bad(r"application/x-teapot", "[[], {}, {}]", saying(), "application/x-teapot"),
    "an encoding nobody knows": Bad(r"teapot", b"[[], {}, {}]", saying(), JSON, "teapot"),
    "a compression nobody knows": Bad(
        r"compression 'teapot': .* expected one of .*gzip", headers=saying(compression="teapot")
    ),
    "not what it was compressed with": Bad(
        r"application/x-bz2", zlib.compress(b"[[], {}, {}]"), saying(compression="application/x-bz2"), JSON, "binary"
    ),
    "unpacks to more than it may": Bad(
        rf"at most {16 * 2**20} bytes",
        zlib.compress(b" " * 20 * MEGABYTE, 1),
        saying(compression="application/x-gzip"),
        JSON,
        "binary",
    ),
    "too large": Bad(
        rf"body: expected at most {16 * 2**20} bytes .*max_body_bytes.*, got {17 * MEGABYTE}",
        "x" * 17 * MEGABYTE,
        saying(),
    ),
}


def publish(url: str, bad: Bad, queue: str = "celery", **headers: Any) -> None:
    with kombu.Connection(url) as connection, connection.channel() as channel:
        producer = kombu.Producer(channel)
        producer.publish(
            bad.body,
            routing_key=queue,
            content_type=bad.content_type,
            content_encoding=bad.content_encoding,
            headers={**bad.headers, **headers},
        )


@dataclass
class Scene:
    """A running worker, and an App that sends to it."""

    worker: Worker
    app: App
    url: str

    def add(self, x: int) -> Any:
        """Proof that the worker goes on."""
        return self.app.send_task("semantics.add", [x, 1]).get(20)


def client(url: str, results_url: str = "none") -> App:
    overrides = {("broker", "url"): url, ("results", "url"): results_url}
    return App("client", settings=load_settings(overrides=overrides, environ={}))


@pytest.fixture(scope="module", params=["sqlite", "rabbitmq"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp(request.param)
    url = (
        f"sqlite:///{folder}/broker.db" if request.param == "sqlite" else request.getfixturevalue("rabbitmq_module_url")
    )
    results_url = f"sqlite:///{folder}/results.db"
    journal = Journal(folder / "journal")
    ini = {
        "worker": {"concurrency": 4, "max_body_bytes": "16MiB", "queues": "celery, careless"},
        "queue careless": {"dead_letter": "no"},
        "broker": {"url": url},
        "results": {"url": results_url},
        "log": {"format": "text"},
    }
    with Worker(folder, app=APP, ini=ini, environ=journal.environ) as worker, client(url, results_url) as app:
        yield Scene(worker, app, url)
        assert worker.stop() == 0


# --- messages ---------------------------------------------------------------------------------------------------------


def test_bad_messages_go_to_the_dead_letter_queue(scene: Scene) -> None:
    """With their reason, and untouched; a good one among them runs."""
    for number, (name, bad) in enumerate(BAD.items()):
        publish(scene.url, bad, case=name)
        if number % 10 == 0:
            assert scene.add(number) == number + 1
    letters = {letter.headers["case"]: letter for letter in wait_dead_letters(scene.url, len(BAD))}
    assert set(letters) == set(BAD)
    for name, bad in BAD.items():
        check_letter(name, bad, letters[name])
    assert scene.add(2) == 3


def check_letter(name: str, bad: Bad, letter: Letter) -> None:
    headers = letter.headers
    reason = headers["x-greenworker-reason"]
    assert re.search(bad.reason, reason), f"{name}: {reason}"
    assert headers["x-greenworker-kind"] == bad.kind, name
    assert headers["x-greenworker-queue"] == "celery", name
    assert headers["x-greenworker-hostname"].startswith("worker@"), name
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", headers["x-greenworker-at"]), name
    assert {key: headers[key] for key in bad.headers} == dict(bad.headers), name
    assert letter.content_type == bad.content_type, name
    body = bad.body if isinstance(bad.body, bytes) else bad.body.encode()
    if name == "unpacks to more than it may" and letter.body != body:  # kombu unpacks it for some transports
        body = zlib.decompress(body)
    assert letter.body == body, name


def test_a_dead_letter_is_logged(scene: Scene) -> None:
    publish(scene.url, Bad("", "{broken", saying()), case="logged")
    wait_dead_letters(scene.url, 1)
    line = scene.worker.wait_for_line(r"Message of queue celery \(malformed\) goes to celery\.dead: .*broken")
    assert "ERROR" in line


def test_dead_letters_switched_off_are_told_and_dropped(scene: Scene) -> None:
    """That is the operator's word for that queue."""
    publish(scene.url, Bad("", "{careless", saying()), queue="careless")
    line = scene.worker.wait_for_line(r"Message of queue careless \(malformed\) is dropped.*dead_letter.*: .*careless")
    assert "ERROR" in line
    assert scene.add(1) == 2


def test_arguments_that_the_function_does_not_take(scene: Scene) -> None:
    """The message is in order; it is the call that fails, and the client is told."""
    result = scene.app.send_task("semantics.add", [1, 2, 3], {"q": 4})
    with pytest.raises(TypeError, match=r"add\(\)"):
        result.get(15)


@pytest.mark.parametrize("how", ["return", "raise"])
def test_what_cannot_be_encoded_is_told_in_its_place(scene: Scene, how: str) -> None:
    result = scene.app.send_task("semantics.unencodable", [how])
    stored = result.get(15, propagate=False)
    assert result.state == FAILURE
    if how == "return":
        assert type(stored).__name__ == "UnstorableResultError"
        assert re.search(r"<object object at .*cannot be encoded as json", str(stored))
        scene.worker.wait_for_line(rf"semantics\.unencodable\[{result.id}\]: its result cannot be stored")
    else:
        assert type(stored).__name__ == "ShopError"
        assert re.search(r"<object object at 0x", str(stored))
        assert "in unencodable" in (result.traceback or "")


@pytest.mark.parametrize("broker", ["rabbitmq", pytest.param("sqlite", marks=pytest.mark.full)])
def test_a_body_of_100_megabytes(broker: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Up to the limit it runs, above it goes to the dead-letter queue, whole."""
    url = f"sqlite:///{tmp_path}/broker.db" if broker == "sqlite" else request.getfixturevalue("rabbitmq_url")
    journal = Journal(tmp_path / "journal")
    ini = {"worker": {"max_body_bytes": "100MiB", "concurrency": 2}, "broker": {"url": url, "publish_timeout": "30s"}}
    with Worker(tmp_path, app=APP, ini=ini, environ=journal.environ) as worker:
        for megabytes in (100, 110):
            text = "x" * megabytes * MEGABYTE
            publish(url, Bad("", f'[["{text}"], {{}}, {{}}]', saying(task="semantics.size", id=str(megabytes))))
        wait_until(lambda: journal.of("100"), 40.0, "the task with 100 MB")
        assert journal.of("100")[0]["size"] == 100 * MEGABYTE
        (letter,) = wait_dead_letters(url, 1, timeout=40.0)
        assert letter.headers["id"] == "110"
        assert re.search(
            r"body: expected at most 104857600 bytes .*max_body_bytes", letter.headers["x-greenworker-reason"]
        )
        assert len(letter.body) == 110 * MEGABYTE + len('[[""], {}, {}]')
        assert worker.stop() == 0
    assert not journal.of("110")


def test_a_queue_that_vanishes_is_made_again(rabbitmq_url: str, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    ini = {"worker": {"queues": "celery, other"}, "broker": {"url": rabbitmq_url}}
    with Worker(tmp_path, app=APP, ini=ini, environ=journal.environ) as worker, client(rabbitmq_url) as app:
        with kombu.Connection(rabbitmq_url) as connection:
            connection.default_channel.queue_delete("other")
        worker.wait_for_line(r"\bother\b.*(vanish|delet|gone|cancel)")
        wait_until(lambda: exists(rabbitmq_url, "other"), what="the queue is there again")
        sent = [app.send_task("semantics.add", [1], queue=queue).id for queue in ("celery", "other")]
        wait_until(lambda: len(journal.of(*sent)) == 2, what="tasks of both queues run")
        assert worker.stop() == 0


def exists(url: str, queue: str) -> bool:
    with kombu.Connection(url) as connection:
        try:
            connection.default_channel.queue_declare(queue, passive=True)
        except connection.channel_errors:
            return False
    return True


# --- the broker at start ----------------------------------------------------------------------------------------------


def test_a_broker_that_is_not_there_yet_is_waited_for(rabbitmq: RabbitMQ, rabbitmq_url: str, tmp_path: Path) -> None:
    port = free_port()
    url = rabbitmq.url_of(rabbitmq_url.rpartition("/")[2], port)
    journal = Journal(tmp_path / "journal")
    ini = {"broker": {"url": url, "reconnect_delay_max": "0.3s"}}
    worker = Worker(tmp_path, app=APP, ini=ini, environ=journal.environ)
    worker.launch()
    try:
        for number in (1, 2, 3):
            line = worker.wait_for_line(r"Cannot connect to .*next try", count=number)
            assert f"127.0.0.1:{port}" in line
            assert "connection refused: is the broker running" in line
            assert "guest:guest" not in line
        with Proxy(rabbitmq.port, port):
            worker.wait_for_line(r"\bready\b")
            with client(url) as app:
                sent = app.send_task("semantics.add", [1]).id
            wait_until(lambda: journal.of(sent), what="a task runs")
            assert worker.stop() == 0
    finally:
        worker.kill()


def test_a_worker_that_waits_for_its_broker_can_be_stopped(tmp_path: Path) -> None:
    worker = Worker(tmp_path, app=APP, ini={"broker": {"url": f"amqp://shop:s3cret@127.0.0.1:{free_port()}//"}})
    worker.launch()
    worker.wait_for_line(r"Cannot connect to")
    assert worker.stop(timeout=10.0) == 0
    assert "s3cret" not in worker.output


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("guest:guest@", "guest:s3cret@"), r"login refused: check the user and password in \[broker\] url"),
        (("/test", "/no-such-vhost-"), r"access to the virtual host refused"),
    ],
    ids=["wrong password", "wrong virtual host"],
)
def test_a_login_that_is_refused_ends_the_start(
    change: tuple[str, str], told: str, rabbitmq_url: str, tmp_path: Path
) -> None:
    write_ini(tmp_path / "worker.ini", {"broker": {"url": rabbitmq_url.replace(*change)}})
    done = run(tmp_path, "worker", "-A", APP, "-C", "worker.ini")
    assert done.returncode == EXIT_UNAVAILABLE == 69
    assert re.search(told, done.stderr)
    assert "127.0.0.1" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("section", ["broker", "results"])
def test_a_file_that_cannot_be_made_ends_the_start(section: str, tmp_path: Path) -> None:
    ini = {"broker": {"url": f"sqlite:///{tmp_path}/broker.db"}, section: {"url": "sqlite:////proc/nothing/here.db"}}
    write_ini(tmp_path / "worker.ini", ini)
    done = run(tmp_path, "worker", "-A", APP, "-C", "worker.ini")
    assert done.returncode == EXIT_UNAVAILABLE
    assert "/proc/nothing" in done.stderr
    assert "Traceback" not in done.stderr


# --- the app, the settings, the command line --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "source", "told"),
    [
        (
            "nowhere.tasks:app",
            "",
            r"app 'nowhere\.tasks:app': there is no module 'nowhere' in /.* or on the Python path",
        ),
        ("shop:app", "app = 7\n", r"expected a greenworker\.App, got builtins\.int: 7"),
        ("shop:app", "import os\nos.environ['NO_SUCH']\n", r"importing shop failed: KeyError: 'NO_SUCH'\n.*shop\.py:2"),
        ("shop:app", "raise SystemExit(3)\n", r"importing shop failed: SystemExit: 3"),
    ],
    ids=["no module", "no App", "import error", "exits"],
)
def test_an_app_that_cannot_be_had(app: str, source: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(source)
    done = run(tmp_path, "worker", "-A", app)
    assert done.returncode == EXIT_CONFIG == 78
    assert re.search(told, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state" / "broker.db").exists(), "nothing is made before the app is there"


def test_no_app_is_told(tmp_path: Path) -> None:
    done = run(tmp_path, "worker")
    assert done.returncode == EXIT_CONFIG
    assert "[worker] app: expected module:attribute such as shop.tasks:app (-A), got nothing" in done.stderr


def test_all_mistakes_in_the_settings_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "worker.ini").write_text(
        "[worker]\nconcurency = 5\nshutdown_timeout = soon\n\n"
        "[broker]\nurl = amqp://shop:s3cret@host//\npassword = s3cret\n"
    )
    done = run(tmp_path, "worker", "-A", APP, "-C", "worker.ini")
    assert done.returncode == EXIT_CONFIG
    problems = done.stderr.removeprefix("greenworker worker: ").splitlines()
    assert len(problems) == 3
    assert re.search(
        r"worker\.ini:2: unknown key 'concurency' in section \[worker\]; did you mean 'concurrency'\?", problems[0]
    )
    assert re.search(
        r"worker\.ini:3: bad value 'soon' for \[worker\] shutdown_timeout: expected a duration", problems[1]
    )
    assert re.search(r"worker\.ini:7: unknown key 'password'", problems[2])
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["worker", "--no-such-flag"], r"unknown option --no-such-flag"),
        (["worker", "-c"], r"expected one argument"),
        (["worker", "extra"], r"unexpected argument"),
        (["wroker"], r"there is no command 'wroker'; did you mean 'worker'"),
        ([], r"usage: greenworker COMMAND"),
    ],
)
def test_a_command_line_that_is_wrong(arguments: list[str], told: str, tmp_path: Path) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == EXIT_USAGE == 64
    assert re.search(told, done.stderr + done.stdout)
