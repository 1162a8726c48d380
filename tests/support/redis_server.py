"""A private Redis server: its own port, folder and configuration, so that a test can kill it."""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from tests.support.rabbitmq import free_port

DATABASES = 10_000


def missing() -> str | None:
    """Why no Redis can be started here, or None."""
    if shutil.which("redis-server") is None:
        return "no redis-server here (apt-get install redis-server)"
    return None


class RedisServer:
    """One server process. Port and folder stay the same over ``restart``; what is kept depends on ``append_only``."""

    def __init__(self, folder: Path, *, append_only: bool = False) -> None:
        self.folder = folder
        self.append_only = append_only
        self.port = free_port()
        self._databases = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout: float = 10.0) -> None:
        """Start, and wait until it answers. Raises RuntimeError, with its log, after ``timeout`` seconds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # setpriv: it must not outlive a test run that was killed.
        command = ["setpriv", "--pdeathsig", "KILL", "redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), "--databases", str(DATABASES), "--save", "", "--daemonize", "no"]
        command += ["--appendonly", "yes" if self.append_only else "no", "--appendfsync", "always"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"redis-server did not start:\n{self._log.read_text()}")
            time.sleep(0.02)

    def url(self, database: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a database that no test has used. Pub/sub channels are shared by all databases of a server."""
        return self.url(next(self._databases))

    def stop(self) -> None:
        """Stop in order, as an operator would. Harmless twice."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop at once, as a crash would. Harmless twice."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start on the same port."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def _log(self) -> Path:
        return self.folder / "redis.log"

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def _end(self, signum: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(signum)
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10.0)
        self._process = None
