"""Private Redis servers: their own ports, folders and configuration, so that a test can kill them."""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import redis

from tests.support.rabbitmq import free_port

DATABASES = 10_000
MASTER_NAME = "mymaster"


def missing() -> str | None:
    """Why no Redis can be started here, or None."""
    if shutil.which("redis-server") is None:
        return "no redis-server here (apt-get install redis-server)"
    return None


class RedisServer:
    """One server process. Port and folder stay the same over ``restart``; what is kept depends on ``append_only``.

    ``options`` are lines of its configuration, without their dashes (``{"maxmemory": "5mb"}``).
    """

    def __init__(
        self, folder: Path, *, append_only: bool = False, options: Mapping[str, str | list[str]] | None = None
    ) -> None:
        self.folder = folder
        self.append_only = append_only
        self.options = dict(options or {})
        self.port = free_port()
        self._databases = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout: float = 10.0) -> None:
        """Start, and wait until it answers. Raises RuntimeError, with its log, after ``timeout`` seconds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # setpriv: it must not outlive a test run that was killed.
        command = ["setpriv", "--pdeathsig", "KILL", *self._command()]
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

    def _command(self) -> list[str]:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), "--databases", str(DATABASES), "--save", "", "--daemonize", "no"]
        command += ["--appendonly", "yes" if self.append_only else "no", "--appendfsync", "always"]
        for name, value in self.options.items():
            command += [f"--{name}", *(value if isinstance(value, list) else [value])]
        return command

    @property
    def _log(self) -> Path:
        return self.folder / "redis.log"

    def _answers(self) -> bool:
        """Any reply will do: with a password it is one that asks for it."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
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


class Sentinel(RedisServer):
    """One sentinel that watches ``master``, alone: one vote is enough for a failover."""

    def __init__(self, folder: Path, master: RedisServer, *, password: str | None = None) -> None:
        super().__init__(folder)
        self._master = master
        self._password = password

    def _command(self) -> list[str]:
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.folder}",
            f"sentinel monitor {MASTER_NAME} 127.0.0.1 {self._master.port} 1",
            f"sentinel down-after-milliseconds {MASTER_NAME} 500",
            f"sentinel failover-timeout {MASTER_NAME} 2000",
            *([f"requirepass {self._password}"] if self._password else []),
        ]
        configuration = self.folder / "sentinel.conf"  # the sentinel writes to it, too
        configuration.write_text("\n".join(lines) + "\n")
        return ["redis-server", str(configuration), "--sentinel"]


def client(url: str) -> Any:
    """redis-py's own client, to look at what is there and to put other things there."""
    return redis.Redis.from_url(url, socket_timeout=5.0)
