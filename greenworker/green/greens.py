"""Which green-thread library serves which pool."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from greenworker.green.base import Library

# The modules are imported only when asked for: importing gevent or eventlet has effects on the process.
LIBRARIES: Mapping[str, str] = {
    "gevent": "greenworker.green.gevent",
    "eventlet": "greenworker.green.eventlet",
    "threads": "greenworker.green.native",
    "solo": "greenworker.green.native",
}


def library(pool: str) -> Library:
    """The library for the pool of that name. Raises ValueError for a name that is no pool's."""
    try:
        module = importlib.import_module(LIBRARIES[pool])
    except KeyError:
        raise ValueError(f"no pool is called {pool!r}; there are: {', '.join(LIBRARIES)}") from None
    made: Library = module.LIBRARY
    return made
