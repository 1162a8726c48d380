"""A private RabbitMQ for tests: own node name, ports, data folder and cookie, so that tests may kill it."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

BINARIES = Path("/usr/lib/rabbitmq/bin")  # Debian's own wrapper in /usr/sbin insists on /var/lib/rabbitmq
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
CONTROL_TIMEOUT = 60.0


def missing() -> str | None:
    """Why no RabbitMQ can be started here, or None."""
    if not (BINARIES / "rabbitmq-server").exists():
        return "no rabbitmq-server here (apt-get install rabbitmq-server)"
    return None


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class RabbitMQ:
    """One broker process. ``config`` is added to its rabbitmq.conf; user and password are guest and guest."""

    def __init__(self, folder: Path, config: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self._distribution_port = free_port()
        self._node = f"greenworker-{self.port}@localhost"
        self._cookie = secrets.token_hex(16)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")},
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(free_port()),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
            "LANG": "C.UTF-8",
        }
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._vhosts = itertools.count(1)

    @property
    def pid(self) -> int | None:
        """The leader of its process group while it runs."""
        return None if self._process is None else self._process.pid

    @property
    def url(self) -> str:
        """The URL of the default virtual host."""
        return self.url_of("%2F")

    def url_of(self, vhost: str, port: int | None = None) -> str:
        """The URL of a virtual host; ``port`` where a proxy stands between."""
        return f"amqp://guest:guest@127.0.0.1:{port or self.port}/{vhost}"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_files()
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [BINARIES / "rabbitmq-server"],
                env=self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._wait_until_ready(time.monotonic() + START_TIMEOUT)

    def stop(self) -> None:
        """Stop it in good order, and what Erlang left running beside it. Harmless twice."""
        self._end(signal.SIGTERM)
        subprocess.run(["epmd", "-kill"], env=self._environment, capture_output=True, timeout=STOP_TIMEOUT, check=False)

    def kill(self) -> None:
        """SIGKILL: nothing is written any more."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start on the same port, with the same data."""
        self._end(signal.SIGTERM)
        self.start()

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` (takes two seconds: Elixir starts); returns what it printed."""
        return self._run([str(BINARIES / "rabbitmqctl"), "-q", "-n", self._node, *arguments])

    def evaluate(self, expression: str) -> str:
        """Evaluate Erlang (ending in a dot) in the broker; takes milliseconds where ``erl_call`` is installed."""
        erl_call = shutil.which("erl_call")
        if erl_call is None:
            return self.ctl("eval", expression)
        address = f"127.0.0.1:{self._distribution_port}"
        answer = self._run([erl_call, "-address", address, "-c", self._cookie, "-e"], expression + "\n")
        if not answer.startswith("{ok, "):
            raise RuntimeError(f"RabbitMQ could not evaluate {expression!r}: {answer}")
        return answer.removeprefix("{ok, ").removesuffix("}")

    def new_vhost(self) -> str:
        """A fresh virtual host; returns its URL."""
        name = f"test{next(self._vhosts)}"
        self.evaluate(
            f'ok = rabbit_vhost:add(<<"{name}">>, <<"tests">>),'
            f"ok = rabbit_auth_backend_internal:set_permissions("
            f'<<"guest">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"tests">>).'
        )
        return self.url_of(name)

    def log(self) -> str:
        """Its log so far, for the message of a failed test."""
        return "\n".join(path.read_text(errors="replace") for path in sorted((self.folder / "log").glob("*.log")))

    def _write_files(self) -> None:
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "log.console = false\n"
            "vm_memory_high_watermark.absolute = 4GB\n"
            "disk_free_limit.absolute = 50MB\n"
            f"{self._config}\n"
        )
        (self.folder / "enabled_plugins").write_text("[].\n")
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(self._cookie)
            cookie.chmod(0o400)

    def _wait_until_ready(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5.0) as probe:
                    probe.sendall(b"AMQP\0\0\x09\x01")
                    if probe.recv(1) == b"\x01":  # connection.start: it speaks AMQP
                        return
            except OSError:
                time.sleep(0.05)
        self.kill()
        output = (self.folder / "output").read_text(errors="replace")
        raise RuntimeError(f"RabbitMQ did not start; it printed:\n{output}\n{self.log()}")

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            os.killpg(process.pid, how)
            process.wait(STOP_TIMEOUT)
        except ProcessLookupError:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_TIMEOUT)

    def _run(self, command: list[str], standard_input: str = "") -> str:
        done = subprocess.run(
            command,
            env=self._environment,
            input=standard_input,
            capture_output=True,
            text=True,
            timeout=CONTROL_TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed ({done.returncode}): {done.stdout}{done.stderr}")
        return done.stdout
