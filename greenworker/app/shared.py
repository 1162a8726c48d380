"""One object for a whole process, made when it is first asked for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Shared(Generic[Made]):
    """Makes its object at the first ``get``, once, whichever thread or greenlet comes first.

    A forked child makes its own: what the parent made has the parent's sockets, and a lock may have been held when the
    process forked. The parent's object is left alone there, not closed: closing would say goodbye on its sockets.
    """

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: Made | None = None
        self._own = True
        self._pid = os.getpid()

    def get(self) -> Made:
        """The object. Raises what making it raises; the next call tries again."""
        if self._pid != os.getpid():
            self._lock, self._made, self._pid = threading.Lock(), None, os.getpid()
        made = self._made
        if made is None:
            with self._lock:
                made = self._made
                if made is None:
                    made = self._make()
                    self._made, self._own = made, True
        return made

    def set(self, made: Made) -> None:
        """Use this object, somebody else's, from now on."""
        self._made, self._own, self._pid = made, False, os.getpid()

    def take(self) -> Made | None:
        """Forget the object; returned if it was made here and in this process. The next ``get`` makes another."""
        made, self._made = self._made, None
        return made if self._own and self._pid == os.getpid() else None
