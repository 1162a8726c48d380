"""A private PostgreSQL for tests: its own port, user and data folder, and a small number of connections."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import psycopg2

from tests.support.rabbitmq import free_port

RESERVED = 3  # connections that only the superuser gets: the test looks on through them
START_TIMEOUT = 60.0
USER, DATABASE = "shop", "shop"


def _binaries() -> Path | None:
    """Debian keeps one folder a version, and none of them in the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


def missing() -> str | None:
    """Why no PostgreSQL can be started here, or None."""
    if _binaries() is None:
        return "no postgresql here (apt-get install postgresql)"
    return None


class Postgres:
    """One server, that gives ``connections`` to the user ``shop`` and refuses the next one."""

    def __init__(self, connections: int) -> None:
        binaries = _binaries()
        assert binaries is not None
        self._binaries = binaries
        self.connections = connections
        self.port = free_port()
        # Not below pytest's folder, which only its own user may enter: PostgreSQL refuses to run as root.
        self._folder = Path(tempfile.mkdtemp(prefix="greenworker-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, driver: str = "postgresql") -> str:
        return f"{driver}://{USER}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def log(self) -> str:
        """What the server wrote; a refused connection is in it."""
        return (self._folder / "log").read_text(errors="replace")

    def execute(self, statement: str, database: str = DATABASE) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser; returns its rows."""
        connection = psycopg2.connect(host="127.0.0.1", port=self.port, user="postgres", dbname=database)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def in_use(self) -> int:
        """Connections that the user ``shop`` has now."""
        [(count,)] = self.execute(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}'")
        return int(count)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10.0)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        data = self._folder / "data"
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")
        self._folder.chmod(0o700)
        initialise = ["initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(self._as_its_user(initialise), check=True, stdout=subprocess.DEVNULL, timeout=60.0, cwd="/")
        command = ["postgres", "-D", str(data), "-p", str(self.port), "-k", "", "-h", "127.0.0.1", "-F"]
        command += ["-c", f"max_connections={self.connections + RESERVED}"]
        command += ["-c", f"superuser_reserved_connections={RESERVED}"]
        # A query whose client is gone ends then, and not when it is done: see docs/databases.md.
        command += ["-c", "client_connection_check_interval=100ms"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._as_its_user(command), stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        self._wait_until_ready()
        self.execute(f"CREATE ROLE {USER} LOGIN", "postgres")
        self.execute(f"CREATE DATABASE {DATABASE} OWNER {USER}", "postgres")

    def _as_its_user(self, command: list[str]) -> list[str]:
        """``command``, from our binaries, which must not outlive a test run that was killed."""
        who = ["--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        return ["setpriv", *who, "--pdeathsig", "KILL", str(self._binaries / command[0]), *command[1:]]

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self.execute("SELECT 1", "postgres")
                return
            except psycopg2.OperationalError as exc:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start: {exc}\n{self.log}") from None
                time.sleep(0.05)
