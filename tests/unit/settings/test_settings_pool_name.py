"""The pool's name before patching: without importing what patching is for, and as the full loader sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from greenworker.settings.pool_name import find_pool


def test_importing_it_brings_in_nothing_that_patching_is_for() -> None:
    code = """
import sys
before = set(sys.modules)
from greenworker.settings.pool_name import find_pool
assert find_pool(["worker", "-P", "solo", "-C", "/nope.ini"], {}) == "solo"
patched = {"socket", "_socket", "threading", "ssl", "_ssl", "select", "selectors", "subprocess", "queue", "logging"}
print(sorted((set(sys.modules) - before) & patched))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-P", "eventlet"],
        ["-Peventlet"],
        ["-P=eventlet"],
        ["--pool", "eventlet"],
        ["--pool=eventlet"],
        ["--worker-pool=EVENTLET"],
        ["-A", "shop", "-c", "10", "-P", "threads", "-P", "eventlet", "-Q", "a,b"],
        ["shop.add", "2", "--kwargs", '{"P": 1}', "--pool=eventlet", "--", "-P", "solo"],
    ],
)
def test_flags(arguments: list[str]) -> None:
    assert find_pool(["worker", *arguments], {"GREENWORKER_WORKER_POOL": "threads"}) == "eventlet"


def test_environment_then_files_then_default(tmp_path: Path) -> None:
    ini = tmp_path / "shop.ini"
    ini.write_text("nonsense\n[worker]\nPool = solo ; no comment\npool = eventlet\n")
    assert find_pool([], {}) == "gevent"
    assert find_pool(["-C", str(ini)], {}) == "gevent"
    ini.write_text("nonsense\n[worker]\nPool = eventlet\npool = solo\n")
    assert find_pool(["-C", str(ini)], {}) == "eventlet"
    assert find_pool([], {"GREENWORKER_CONFIG": str(ini)}) == "eventlet"
    assert find_pool(["-C", str(ini)], {"GREENWORKER_WORKER_POOL": "threads"}) == "threads"


@pytest.mark.parametrize("arguments", [["-P"], ["-P", "nonsense"], ["-C"], ["-C", "/no/such/file"], ["-C", "a\0b"]])
def test_mistakes_are_left_to_the_loader(arguments: list[str]) -> None:
    assert find_pool(arguments, {}) == "gevent"
