"""Runs a piece of Python in a fresh process that is patched for a pool, as a worker process is."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
POOLS = ("gevent", "eventlet", "threads")
GREEN_POOLS = ("gevent", "eventlet")

_PRELUDE = "import sys; from greenworker.green.patching import patch; AUDIT = patch({pool!r}); POOL = {pool!r}\n"


def run_patched(pool: str, source: str, *argv: str, timeout: float = 60.0, env: dict[str, str] | None = None) -> str:
    """Run ``source`` (dedented) in a process patched for ``pool``; return what it printed.

    ``POOL`` and ``AUDIT`` are there for it, ``sys.argv[1:]`` is ``argv``. Raises AssertionError, with everything that
    was printed, if the process fails or takes more than ``timeout`` seconds.
    """
    return run_python(_PRELUDE.format(pool=pool) + textwrap.dedent(source), *argv, timeout=timeout, env=env)


def run_python(source: str, *argv: str, timeout: float = 60.0, env: dict[str, str] | None = None) -> str:
    """The same without patching anything first."""
    try:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(source), *argv],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise AssertionError(f"no end after {timeout} s\nstdout: {exc.stdout!r}\nstderr: {exc.stderr!r}") from None
    assert done.returncode == 0, f"exit {done.returncode}\nstdout: {done.stdout}\nstderr: {done.stderr}"
    return done.stdout
