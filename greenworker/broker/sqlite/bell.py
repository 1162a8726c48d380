"""Bells: unix datagram sockets by which whoever publishes wakes whoever waits, in a folder beside the database file.

A bell is a hint, never the truth: who is woken looks into the file, and looks there about once a second without one. So
ringing never waits, a full bell counts as rung, and a bell whose process is gone is removed by whoever finds it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
from pathlib import Path
from uuid import uuid4

logger = logging.getLogger(__name__)

_ADDRESS_BYTES = 107  # sun_path has 108, the last one is NUL
_GROUP_WRITES = stat.S_IWGRP | stat.S_IRGRP


class _Folder:
    """The folder of bells, held open so that its bells can be addressed whatever the length of its path."""

    def __init__(self, folder: Path) -> None:
        self._path = folder
        self.descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def address(self, name: str) -> str:
        """What to bind or send to. A path too long for a socket address goes through /proc, which is short."""
        address = f"{self._path}/{name}"
        if len(os.fsencode(address)) > _ADDRESS_BYTES:
            address = f"/proc/self/fd/{self.descriptor}/{name}"
        return address

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Bell:
    """One that waits. Used by its own loop alone."""

    def __init__(self, folder: Path) -> None:
        """Hang a new bell up in ``folder``. Raises OSError."""
        self._folder = _Folder(folder)
        self.name = f"{os.getpid()}-{uuid4().hex[:12]}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            address = self._folder.address(self.name)
            self._socket.bind(address)
            # who may write into the folder may ring: its group where the folder is the group's, nobody else
            mode = 0o660 if os.fstat(self._folder.descriptor).st_mode & _GROUP_WRITES == _GROUP_WRITES else 0o600
            Path(address).chmod(mode)
            self._socket.setblocking(False)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Readable when rung."""
        return self._socket.fileno()

    def clear(self) -> None:
        """Take all rings that have come. Look into the file after this, not before: a ring may come in between."""
        try:
            while self._socket.recv(16):
                pass
        except BlockingIOError:
            pass

    def wait(self, timeout: float) -> bool:
        """Wait, in green time where sockets are green, until rung or ``timeout`` seconds are over; True if rung."""
        self._socket.settimeout(max(timeout, 0.001))
        try:
            self._socket.recv(16)
        except TimeoutError:
            return False
        finally:
            self._socket.setblocking(False)
        self.clear()
        return True

    def close(self) -> None:
        """Take it down. Harmless twice."""
        self._socket.close()
        if self._folder.descriptor >= 0:
            self._folder.remove(self.name)
            self._folder.close()


class Ringer:
    """Rings all bells of a folder. Any greenlet or thread may call ``ring``."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError if the folder cannot be read."""
        self._folder = _Folder(folder)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def ring(self, but: str | None = None) -> None:
        """Wake everyone who waits, ``but`` the bell of that name (one's own). Never waits, never raises."""
        try:
            names = os.listdir(self._folder.descriptor)  # noqa: PTH208 - by descriptor: the path may be out of reach
        except OSError as exc:
            logger.warning("Bells cannot be rung, messages wait for the next poll: %s", exc)
            return
        for name in names:
            if name != but:
                self._ring(name)

    def _ring(self, name: str) -> None:
        try:
            self._socket.sendto(b"\0", self._folder.address(name))
        except BlockingIOError:
            return  # full: it is rung already
        except (ConnectionRefusedError, FileNotFoundError):
            try:
                self._folder.remove(name)
            except OSError as exc:
                logger.debug("A dead bell stays: %s", exc)
        except OSError as exc:
            logger.debug("A bell cannot be rung: %s", exc)

    def close(self) -> None:
        """Harmless twice."""
        self._socket.close()
        self._folder.close()
