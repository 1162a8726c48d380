"""A real Celery worker process, as the projects have that greenworker works beside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.support.worker import REPOSITORY, wait_until

START_TIMEOUT = 30.0


class CeleryWorker:
    """``celery -A APP worker``, without gossip and mingle, ready when the block begins."""

    def __init__(
        self,
        folder: Path,
        app: str,
        environ: Mapping[str, str],
        arguments: Sequence[str] = (),
        *,
        pool: str = "threads",  # a second -P would not do: Celery patches for the first one
    ) -> None:
        self._folder = folder
        self._output = folder / "celery.log"
        self._environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", **environ}
        self._command = [sys.executable, "-m", "celery", "-A", app, "worker", "-l", "INFO", "-P", pool, "-c", "4"]
        self._command += ["--without-gossip", "--without-mingle", *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self._output.read_text(errors="replace")

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the worker's process."""
        assert self._process is not None
        self._process.send_signal(signum)

    def kill(self) -> None:
        """SIGKILL. Harmless twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10.0)

    def __enter__(self) -> Self:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environ, stdout=output, stderr=output
            )
        try:
            wait_until(lambda: " ready." in self.output, START_TIMEOUT, "the Celery worker to be ready")
        except BaseException:
            self.kill()
            print(self.output, file=sys.stderr)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self.kill()
        if kind is not None:
            print(self.output, file=sys.stderr)
