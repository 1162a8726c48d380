"""The command's first lines: find the pool's name, patch, and only then import the rest.

Nothing that touches sockets, threads or the app may be imported above ``patch``.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    audit = None
    if sys.argv[1:2] == ["worker"]:
        # Until its own handlers are there, an interrupt ends the process as TERM does: a KeyboardInterrupt while it
        # patched has left it hanging at its exit.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        from greenworker.green.patching import patch
        from greenworker.settings.pool_name import find_pool

        audit = patch(find_pool(sys.argv[2:], os.environ))
    from greenworker.cli.main import run

    return run(sys.argv[1:], audit)


if __name__ == "__main__":
    sys.exit(main())
