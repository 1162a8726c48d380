"""A real worker process for integration tests: ``python -m greenworker worker``, its INI file, output and exit code.

    with Worker(tmp_path, ini={"broker": {"url": url}}, files={"shop.py": SHOP}, app="shop:app") as worker:
        ...
        assert worker.stop() == 0

Everything that waits has a timeout, and every failure shows what the worker printed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

REPOSITORY = Path(__file__).resolve().parents[2]
READY = r"\bready\b"
Ini = Mapping[str, Mapping[str, object]]


def write_ini(path: Path, ini: Ini) -> Path:
    """Write ``{section: {key: value}}`` as an INI file; returns its path."""
    lines = []
    for section, values in ini.items():
        lines += [f"[{section}]", *(f"{key} = {value}" for key, value in values.items()), ""]
    path.write_text("\n".join(lines))
    return path


def environment(folder: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """What a command under test runs in: modules of ``folder``, state beside them, none of the machine's settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GREENWORKER_")}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "STATE_DIRECTORY": str(folder / "state"),
        **extra,
    }


def wait_until(
    condition: Callable[[], object], timeout: float = 10.0, what: str = "", state: Callable[[], object] | None = None
) -> None:
    """Poll until ``condition()`` is true. Raises AssertionError, naming ``what``, after ``timeout`` seconds.

    ``state`` says what is the case instead.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            instead = f"; instead: {state()}" if state is not None else ""
            raise AssertionError(f"not within {timeout:g} s: {what or condition}{instead}")
        time.sleep(0.01)


def run(folder: Path, *arguments: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Run one ``greenworker`` command that ends by itself, in ``folder``; returns its exit code and output."""
    return subprocess.run(
        [sys.executable, "-m", "greenworker", *arguments],
        cwd=folder,
        env=environment(folder, {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Worker:
    """One worker in a process group of its own; ``folder`` is its working folder, its state folder is in it.

    ``files`` (relative path: source) are written there first, so that an app's modules can be imported. Several workers
    may share a folder, and with it the embedded broker, if each has its own ``name``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        app: str | None = None,
        ini: Ini | None = None,
        files: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        name: str = "worker",
        start_timeout: float = 20.0,
    ) -> None:
        self.folder = folder
        self.name = name
        self._start_timeout = start_timeout
        self._environ = environment(folder, environ or {})
        for relative, source in (files or {}).items():
            path = folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        (folder / "state").mkdir(parents=True, exist_ok=True)
        config = write_ini(folder / f"{name}.ini", ini or {})
        self._command = [sys.executable, "-m", "greenworker", "worker", "-C", str(config)]
        self._command += ["-n", f"{name}@%h", *(["-A", app] if app else []), *arguments]
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lines: list[str] = []  # written by the reader thread, under _changed
        self._changed = threading.Condition()
        self._ended = False  # the reader has seen the end of the output

    # -- its life

    def launch(self) -> None:
        """Start the process and do not wait for it to be ready."""
        self._lines, self._ended = [], False
        self._process = subprocess.Popen(
            self._command,
            cwd=self.folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {self.name}", daemon=True)
        self._reader.start()

    def start(self) -> Self:
        """Start, and wait for the line that says it is ready."""
        self.launch()
        try:
            self.wait_for_line(READY, self._start_timeout)
        except BaseException:
            self.kill()
            raise
        return self

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the worker's process alone."""
        self._running().send_signal(signum)

    def stop(self, signum: signal.Signals = signal.SIGTERM, timeout: float = 30.0) -> int:
        """Signal it and wait; returns its exit code (negative: the signal it died of)."""
        self.send(signum)
        return self.wait(timeout)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait until it has ended by itself; returns its exit code."""
        process = self._running()
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler, where it is on, prints where it hangs
            self._join(5.0)
            self.kill()
            raise self._failure(f"did not end within {timeout:g} s") from None
        self._join(5.0)
        return code

    def kill(self) -> None:
        """SIGKILL to it and whatever it started. Harmless when it has ended."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # the whole group has ended
        self._process.wait(10.0)
        self._join(5.0)

    # -- what it shows

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> str:
        """All it printed so far, standard output and error together."""
        with self._changed:
            return "".join(self._lines)

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024  # type: ignore[index]

    def wait_for_line(self, pattern: str, timeout: float = 10.0, *, count: int = 1) -> str:
        """Wait until ``count`` lines match the regular expression; returns the last of them."""
        deadline = time.monotonic() + timeout
        expression = re.compile(pattern)
        with self._changed:
            while True:
                found = [line for line in self._lines if expression.search(line)]
                if len(found) >= count:
                    return found[count - 1].rstrip("\n")
                remaining = deadline - time.monotonic()
                if self._ended or remaining <= 0:
                    break
                self._changed.wait(remaining)
        why = "ended" if self._ended else f"ran for {timeout:g} s"
        raise self._failure(f"{why}, and {len(found)} lines, not {count}, matched {pattern!r}")

    def __enter__(self) -> Self:
        return self if self.alive else self.start()

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        if kind is not None:
            print(f"--- {self.name} printed ---\n{self.output}", file=sys.stderr)  # pytest shows it with the failure
            self.kill()
        elif self.alive:
            self.stop()

    # -- within

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    def _read(self) -> None:
        output = self._running().stdout
        assert output is not None
        with output:
            for line in output:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _join(self, timeout: float) -> None:
        if self._reader is not None:
            self._reader.join(timeout)

    def _failure(self, what: str) -> AssertionError:
        code = self._process.poll() if self._process else None
        state = "still running" if code is None else f"exit code {code}"
        return AssertionError(
            f"{self.name} {what} ({state}).\n$ {' '.join(self._command)}\n--- it printed ---\n{self.output}"
        )
