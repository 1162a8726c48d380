"""Every mistake in files, environment and command line: its exact line, all at once, in order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from greenworker.errors import EXIT_CONFIG, SettingsError
from greenworker.settings.load import load_settings


def problems(
    path: Path,
    text: str | bytes,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[tuple[str, str], str] | None = None,
) -> list[str]:
    """The problems of one file, its folder's name left out."""
    file = path / "shop.ini"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError) as caught:
        load_settings(config_files=[file], environ={"HOME": str(path), **(environ or {})}, overrides=overrides)
    assert caught.value.exit_code == EXIT_CONFIG
    return [problem.replace(f"{path}/", "") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[worker]\nconcurency = 5",
            "shop.ini:2: unknown key 'concurency' in section [worker]; did you mean 'concurrency'?",
        ),
        ("[worker]\nheartbeat = 5s", "shop.ini:2: unknown key 'heartbeat' in section [worker]; it belongs in [broker]"),
        (
            "[worker]\nheartbaet = 5",
            "shop.ini:2: unknown key 'heartbaet' in section [worker]; did you mean 'heartbeat' in [broker]?",
        ),
        (
            "[log]\nqqqq = 5",
            "shop.ini:2: unknown key 'qqqq' in section [log]; its keys are level, format, tasks, color",
        ),
        (
            "[queue mail]\nwieght = 2",
            "shop.ini:2: unknown key 'wieght' in section [queue mail]; did you mean 'weight'?",
        ),
        ("[wroker]\nx = 1", "shop.ini:1: unknown section [wroker]; did you mean [worker]?"),
        ("[Worker]\n", "shop.ini:1: unknown section [Worker]; did you mean [worker]?"),
        ("[queues mail]\n", "shop.ini:1: unknown section [queues mail]; did you mean [queue mail]?"),
        ("[queue]\nweight = 2", "shop.ini:1: section [queue] needs the NAME it is for: expected [queue NAME]"),
        ("[route]\nqueue = a", "shop.ini:1: section [route] needs the PATTERN it is for: expected [route PATTERN]"),
        ("[rout shop.*]\n", "shop.ini:1: unknown section [rout shop.*]; did you mean [route shop.*]?"),
        (
            "[route shop.*]\nqueu = mail",
            "shop.ini:2: unknown key 'queu' in section [route shop.*]; did you mean 'queue'?",
        ),
        (
            "[route shop.*]\nmax_priority = 3",
            "shop.ini:2: unknown key 'max_priority' in section [route shop.*]; it belongs in [queue NAME]",
        ),
        (
            "[route shop.*]\npriority = high",
            "shop.ini:2: bad value 'high' for [route shop.*] priority: expected a whole number from 0 to 255",
        ),
        (
            "[route shop.*, mail.*]\nqueue = mail",
            "shop.ini:2: [route shop.*, mail.*] expected one pattern of task names, such as shop.*; got blanks in it",
        ),
        (
            "[zzz]\n",
            "shop.ini:1: unknown section [zzz]; expected one of [worker], [consumer], [task], "
            "[broker], [results], [log], [queue NAME], [route PATTERN]",
        ),
        (
            "[worker]\nconcurrency = many",
            "shop.ini:2: bad value 'many' for [worker] concurrency: expected a whole number from 1 to 1000000",
        ),
        (
            "[worker]\nconcurrency = 0",
            "shop.ini:2: bad value '0' for [worker] concurrency: expected a whole number from 1 to 1000000",
        ),
        (
            "[worker]\nconcurrency =",
            "shop.ini:2: bad value '' for [worker] concurrency: expected a whole number from 1 to 1000000",
        ),
        (
            "[worker]\npool = gevnt",
            "shop.ini:2: bad value 'gevnt' for [worker] pool: expected one of gevent, eventlet, threads, solo",
        ),
        (
            "[task]\nacks_late = maybe",
            "shop.ini:2: bad value 'maybe' for [task] acks_late: expected yes or no (or true/false, on/off, 1/0)",
        ),
        (
            "[worker]\nshutdown_timeout = soon",
            "shop.ini:2: bad value 'soon' for [worker] shutdown_timeout: "
            "expected a duration, such as 30s, 5m, 1h or 500ms (a plain number is seconds)",
        ),
        (
            "[worker]\nmax_body_bytes = 1",
            "shop.ini:2: bad value '1' for [worker] max_body_bytes: "
            "expected a size from 1KiB to 16GiB, such as 64MiB or 512KiB (a plain number is bytes)",
        ),
        (
            "[broker]\naccept = json, pickel",
            "shop.ini:2: bad value 'json, pickel' for [broker] accept: expected any of json, yaml, "
            "msgpack, pickle, separated by commas",
        ),
        (
            "[worker]\nname = a\n  b",
            "shop.ini:2: bad value 'a' and further lines for [worker] name: expected one word; %h "
            "stands for the host's name, "
            "%n for its first part, %d for the rest, on one line (an indented line goes on with the value above it)",
        ),
        (
            "[worker]\nsteps = not-a-step",
            "shop.ini:2: bad value 'not-a-step' for [worker] steps: "
            "expected names such as package.module:Class separated by commas",
        ),
        (
            "[worker]\nstate_directory = here",
            "shop.ini:2: bad value 'here' for [worker] state_directory: expected the absolute path of a folder",
        ),
        (
            "[results]\nurl = rdis://x",
            "shop.ini:2: bad value <hidden> for [results] url: expected redis://:password@host:6379/0 "
            "(in a password, @ : / ? % are written %40 %3A %2F %3F %25), rpc://, "
            "sqlite:////absolute/path/results.db, or none to keep "
            "no results; what stands before its :// is none of the schemes that are known",
        ),
        (
            "[broker]\nurl = amqp://shop:hunter2@h:99999",
            "shop.ini:2: bad value <hidden> for [broker] url: expected a URL whose port is a number from 1 to 65535, "
            "or left out (in a password, @ : / ? % are written %40 %3A %2F %3F %25)",
        ),
        (
            "[broker]\nheartbeat = 30s\nurl = amqp://shop:***@h",
            "shop.ini:3: bad value <hidden> for [broker] url: expected a URL with its secret, got a masked value, as "
            "print-config and logs show it: fill in what *** stands for (a secret that is these three stars is written "
            "%2A%2A%2A)",
        ),
        (
            "[task]\nsoft_time_limit = 5m\ntime_limit = 1m",
            "shop.ini:2: [task] soft_time_limit is 5m, above time_limit, which is 1m; make it the lower one",
        ),
        (
            "[broker]\nreconnect_delay = 31s",
            "shop.ini:2: [broker] reconnect_delay is 31s, above reconnect_delay_max, which is 30s; "
            "make it the lower one",
        ),
        (
            "[worker]\nexclude_queues = celery",
            "shop.ini:2: [worker] exclude_queues leaves none of [worker] queues; expected one queue or "
            "more to take tasks from",
        ),
        (
            "[task]\nserializer = yaml",
            "shop.ini:2: [task] serializer is yaml, which [broker] accept (json) refuses; add it there",
        ),
        (
            "[queue q]\ntype = quorum\nmax_priority = 5",
            "shop.ini:3: [queue q] max_priority: a quorum queue has none; leave it out, or set type = classic",
        ),
        (
            "[queue q]\ntype = quorum\ndurable = no",
            "shop.ini:3: [queue q] durable = no: a quorum queue is always durable; leave it out, or set type = classic",
        ),
        (
            "[queue q]\nrouting_key = other",
            "shop.ini:2: [queue q] routing_key: the default exchange knows the queue's name alone; set "
            "exchange too, or leave this out",
        ),
        (
            "[queue q]\narguments = x-max-priority=5",
            "shop.ini:2: [queue q] arguments: x-max-priority has a key of its own; set max_priority = 5",
        ),
        (
            f"[queue {'q' * 251}]\nweight = 2",
            f"shop.ini:2: [queue {'q' * 251}] the queue's name is longer than 250 bytes",
        ),
        (b"\xff\xfe[worker]", "shop.ini:1: expected UTF-8 text, got bytes that are none; save the file as UTF-8"),
        (
            b"[worker]\nname = caf\xe9\n",
            "shop.ini:2: expected UTF-8 text, got bytes that are none; save the file as UTF-8",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str | bytes, problem: str) -> None:
    assert problems(tmp_path, text) == [problem]


@pytest.mark.parametrize("key", ["tls_ca", "tls_cert", "tls_key"])
def test_tls_files_must_exist_and_be_used(tmp_path: Path, key: str) -> None:
    found = problems(tmp_path, f"[broker]\nurl = amqp://h\n{key} = /no/such.pem\n")
    assert f"shop.ini:3: [broker] {key}: there is no file '/no/such.pem'" in found
    assert (
        f"shop.ini:3: [broker] {key} is set, but no [broker] url is encrypted; expected a URL that "
        "starts with amqps://" in found
    )
    assert ("shop.ini:3: [broker] tls_key is set without tls_cert; set both" in found) == (key == "tls_key")


def test_an_indented_key_is_not_swallowed(tmp_path: Path) -> None:
    found = problems(tmp_path, "[broker]\naccept = json\n  url = amqp://u:hunter2@h\n  [worker]\n")
    assert "shop.ini:3: key 'url' is indented, which makes it part of 'accept' above; remove the indentation" in found
    assert (
        "shop.ini:4: section [worker] is indented, which makes it part of 'accept' above; remove the indentation"
        in found
    )
    assert "hunter2" not in str(found)


def test_all_mistakes_come_at_once_and_sorted(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10-a.ini").write_text("[worker]\npool = x\n")
    text = "[task]\nnope = 1\n" + "\n" * 8 + "[worker]\nconcurrency = x\n[log]\nlevel = x\n"
    environ = {"GREENWORKER_WORKER_NAEM": "x", "GREENWORKER_LOG_LEVEL": "x", "GREENWORKER_BROKER_URL": "hunter2"}
    found = problems(tmp_path, text, environ, {("worker", "pool"): "y"})
    assert [problem.split(": ")[0] for problem in found] == [
        "shop.ini:2",
        "shop.ini:12",
        "shop.ini:14",
        "conf.d/10-a.ini:2",
        "environment",
        "environment",
        "environment",
        "command line",
    ]
    assert "environment: unknown variable 'GREENWORKER_WORKER_NAEM'; did you mean GREENWORKER_WORKER_NAME?" in found
    assert "hunter2" not in str(found)


def test_an_unknown_variable_is_a_mistake_and_its_value_is_not_shown(tmp_path: Path) -> None:
    found = problems(
        tmp_path, "", {"GREENWORKER_BROKER_ULR": "amqp://u:hunter2@h", "GREENWORKER_POOL": "solo", "GREENWORKER_X": "1"}
    )
    assert found == [
        "environment: unknown variable 'GREENWORKER_BROKER_ULR'; did you mean GREENWORKER_BROKER_URL?",
        "environment: unknown variable 'GREENWORKER_POOL'; did you mean GREENWORKER_WORKER_POOL?",
        "environment: unknown variable 'GREENWORKER_X'; a setting's variable is GREENWORKER_SECTION_KEY",
    ]


def test_bytes_that_are_not_utf8_in_the_environment(tmp_path: Path) -> None:
    found = problems(tmp_path, "", {"GREENWORKER_WORKER_NAME": os.fsdecode(b"caf\xe9")})
    assert found[0].endswith("expected text, got a control character or bytes that are not UTF-8")


def test_a_finding_about_a_faulty_value_is_left_out(tmp_path: Path) -> None:
    found = problems(tmp_path, "[task]\nsoft_time_limit = 5m\ntime_limit = x\n")
    assert len(found) == 1
    assert "bad value 'x'" in found[0]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder.ini").mkdir()
    named = [tmp_path / "none.ini", tmp_path / "folder.ini"]
    with pytest.raises(SettingsError) as caught:
        load_settings(config_files=named, environ={"HOME": "/"})
    assert caught.value.problems == (
        f"{named[0]}: cannot read: No such file or directory; name a file that exists with "
        "-C/--config or GREENWORKER_CONFIG",
        f"{named[1]}: cannot read: Is a directory; name a file in it",
    )
    with pytest.raises(SettingsError, match=r"none\.ini: cannot read"):
        load_settings(environ={"HOME": "/", "GREENWORKER_CONFIG": str(named[0])})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_this_user_may_not_read(tmp_path: Path) -> None:
    file = tmp_path / "shop.ini"
    file.touch(mode=0)
    with pytest.raises(SettingsError, match="cannot read: Permission denied; make it readable"):
        load_settings(config_files=[file], environ={"HOME": "/"})
