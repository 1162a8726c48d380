"""Boots a real systemd as PID 1, in a container made of an overlay over this machine's own files.

Nothing on the machine changes: what the container writes goes to a folder of its own, its network is its own, and none
of the machine's services starts, since it boots into a target that wants a single script.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Self

REPOSITORY = Path(__file__).resolve().parents[2]
PREFIX = "opt/greenworker"  # where the unit expects the virtual environment
PYTHON = "/opt/python"  # this Python, where it is not Debian's: /root and /home are hidden from the service
DEPENDENCIES = "/opt/greenworker-dependencies"

TARGET = """\
[Unit]
Requires=sysinit.target dbus.socket
After=sysinit.target dbus.socket
Wants=script.service
AllowIsolate=yes
"""
SCRIPT = """\
[Unit]
After=sysinit.target dbus.socket {units}
[Service]
Type=oneshot
ExecStart=/bin/bash /script
ExecStopPost=/bin/systemctl exit 0
StandardOutput=file:/script.output
StandardError=file:/script.output
TimeoutStartSec={timeout}
"""


def missing() -> str | None:
    """Why no systemd can be booted here, or None."""
    if os.geteuid() != 0:
        return "booting a systemd needs root"
    if shutil.which("systemd-nspawn") is None:
        return "no systemd-nspawn here (apt-get install systemd systemd-container)"
    return None


class Container:
    """An overlay over ``/``: write files into it, boot it once with a script, read what the script left."""

    def __init__(self, folder: Path) -> None:
        self.files, self._work, self._root = folder / "files", folder / "work", folder / "root"
        for path in (self.files, self._work, self._root):
            path.mkdir(parents=True)

    def __enter__(self) -> Self:
        options = f"lowerdir=/,upperdir={self.files},workdir={self._work}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, self._root], check=True, timeout=10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        subprocess.run(["umount", "--recursive", self._root], check=True, timeout=10)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Put a file into the container; ``path`` is absolute there."""
        target = self._root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def read(self, path: str) -> str:
        """A file of the container; empty if it is not there."""
        target = self._root / path.lstrip("/")
        return target.read_text(errors="replace") if target.exists() else ""

    def install_greenworker(self) -> None:
        """Put this tree's package, and the unit, where an operator would; dependencies are those of this Python."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        interpreter = f"/usr/bin/{version}" if sys.base_prefix == "/usr" else f"{PYTHON}/bin/{version}"
        packages = f"/{PREFIX}/lib/{version}/site-packages"
        (self._root / f"{PREFIX}/bin").mkdir(parents=True)
        (self._root / f"{PREFIX}/bin/python").symlink_to(interpreter)
        self.write(
            f"/{PREFIX}/pyvenv.cfg", f"home = {Path(interpreter).parent}\ninclude-system-site-packages = false\n"
        )
        self.write(
            f"/{PREFIX}/bin/greenworker",
            f"#!/{PREFIX}/bin/python\nimport sys\nfrom greenworker.__main__ import main\nsys.exit(main())\n",
            0o755,
        )
        shutil.copytree(REPOSITORY / "greenworker", self._root / packages.lstrip("/") / "greenworker")
        self.write(f"{packages}/dependencies.pth", f"{DEPENDENCIES}\n")
        units = REPOSITORY / "systemd"
        self.write("/etc/systemd/system/greenworker@.service", (units / "greenworker@.service").read_text())
        self.write("/usr/lib/sysusers.d/greenworker.conf", (units / "greenworker.sysusers.conf").read_text())

    def boot(self, script: str, units: Sequence[str], timeout: float) -> str:
        """Boot, run ``script`` (bash, as root), shut down; returns what it printed.

        systemd forgets how a unit ended as soon as nothing refers to it, so the script's own unit refers to ``units``.
        Raises AssertionError if the container does not come up, or is not down ``timeout`` seconds later.
        """
        self.write("/script", script)
        self.write("/etc/systemd/system/script.service", SCRIPT.format(timeout=int(timeout), units=" ".join(units)))
        self.write("/etc/systemd/system/script.target", TARGET)
        command = [
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--link-journal=no",
            "--private-network",
        ]
        command += ["--directory", str(self._root), "--boot"]
        command += [f"--bind-ro={sysconfig.get_path('purelib')}:{DEPENDENCIES}"]
        if sys.base_prefix != "/usr":
            command += [f"--bind-ro={sys.base_prefix}:{PYTHON}"]
        command += ["systemd.unit=script.target"]
        # Host and container agree on the one cgroup hierarchy that this systemd needs, whatever the host mounts.
        environ = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        console = self.files.parent / "console"
        with (
            console.open("wb") as output,
            subprocess.Popen(
                command, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            ) as process,
        ):
            try:
                code = process.wait(timeout + 20)
            except subprocess.TimeoutExpired:
                process.terminate()  # nspawn's SIGTERM powers the container off
                code = process.wait(20)
        printed = self.read("/script.output")
        if code != 0 or "Exiting container" not in console.read_text(errors="replace"):
            raise AssertionError(f"exit code {code}\n{printed}\n{console.read_text(errors='replace')[-4_000:]}")
        return printed
