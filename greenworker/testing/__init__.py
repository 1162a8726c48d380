"""Help for the tests of projects that use greenworker: a pytest plugin, which pytest finds by itself.

docs/testing.md shows what it has. Nothing is imported here but pytest: every pytest run where greenworker is installed
loads this.
"""

from __future__ import annotations

try:
    import pytest  # noqa: F401 - to say what is missing
except ImportError as exc:
    raise ImportError("greenworker.testing is a plugin of pytest, which is not installed: pip install pytest") from exc
