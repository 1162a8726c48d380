"""The spill: a bounded file that documents of results wait in while the store is away and memory is full.

It relieves memory, nothing more: the file has no name, so that it ends with its process, and nothing is synced. What
was in it needs no rescue. A task that is acked late is delivered again, runs again and stores its result again; a
document from before would at best be the same one, and at worst overwrite a newer one. A task that was acked early has
no claim: what dies with the process is what acking early means.

Places are given out one behind the other; when the last document is taken out the file is empty and begins anew.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

FOLDER_MODE = 0o750
RETRY_INTERVAL = 10.0  # seconds in which a file that could not be written is not tried again
SMALLEST_COUNT_BYTES = 4_096  # what a document counts at least: its task's request, some KB, stays in memory


class Spill:
    """A file in ``folder`` (None: there is none to be had) of ``limit_bytes``. Under its owner's lock."""

    def __init__(self, folder: Path | None, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes if folder is not None else 0
        self._file: IO[bytes] | None = None
        self._counted = 0  # bytes, since it was last empty
        self._end = 0
        self._documents = 0
        self._usable_at = 0.0

    @property
    def empty(self) -> bool:
        """Whether nothing is in it."""
        return self._documents == 0

    def put(self, document: bytes) -> int | None:
        """Where the document is from now on; None if there is no room, or no file."""
        counts = max(len(document), SMALLEST_COUNT_BYTES)
        if self._counted + counts > self._limit_bytes or time.monotonic() < self._usable_at:
            return None
        try:
            self._write(document)
        except OSError as exc:
            logger.error("Results that wait for their store cannot be kept in a file in %s: %s", self._folder, exc)
            self._usable_at = time.monotonic() + RETRY_INTERVAL
            return None
        place = self._end
        self._end += len(document)
        self._counted += counts
        self._documents += 1
        return place

    def read(self, place: int, size: int) -> bytes:
        """The document that stands there. Raises OSError."""
        if self._file is None:
            raise OSError("the file was closed")
        document = os.pread(self._file.fileno(), size, place)
        if len(document) != size:
            raise OSError(f"{len(document)} of {size} bytes are left of it")
        return document

    def free(self) -> None:
        """One document is not needed any more."""
        self._documents -= 1
        if self._documents == 0:
            self.close()

    def close(self) -> None:
        """Give up the file, and the room that it took."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._counted = self._end = self._documents = 0

    def _write(self, document: bytes) -> None:
        if self._file is None:
            assert self._folder is not None
            self._folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - open until it is empty
        written = 0
        while written < len(document):
            written += os.pwrite(self._file.fileno(), document[written:], self._end + written)
