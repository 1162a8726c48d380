"""The command's first lines: find the pool's name, patch, and only then import the rest.

Nothing that touches sockets, threads or the app may be imported above ``patch``.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    audit = None
    if sys.argv[1:2] == ["worker"]:
        from greenworker.green.patching import patch
        from greenworker.settings.pool_name import find_pool

        audit = patch(find_pool(sys.argv[2:], os.environ))
    from greenworker.cli.main import run

    return run(sys.argv[1:], audit)


if __name__ == "__main__":
    sys.exit(main())
