"""``greenworker purge``: delete the messages that wait in queues."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from greenworker.app.services import connection_options
from greenworker.broker.connection import open_first
from greenworker.cli.messages import warn_of_process_list
from greenworker.errors import EXIT_OK, BrokerError, UsageError
from greenworker.settings.command_line import add_arguments, settings_from
from greenworker.settings.secrets import mask

SUMMARY = "Delete all messages that wait in the queues."
CONFIRMATION = "yes"
SHOWN = (
    "worker.queues",
    "worker.exclude_queues",
    "worker.state_directory",
    "broker.url",
    "broker.connect_timeout",
    "broker.tls_ca",
    "broker.tls_cert",
    "broker.tls_key",
    "broker.tls_verify",
)

_DESCRIPTION = """\
Delete what waits in the queues of [worker] queues (-Q), without those of exclude_queues (-X). Messages that a worker
has taken already are not touched. There is no way back, so it asks first."""

_EPILOG = """\
exit codes: 0 done, or you said no; 64 wrong command line; 69 broker unusable; 78 wrong settings

examples:
  greenworker purge -C shop.ini
  greenworker purge -C shop.ini -Q mail,mail.dead --force
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    add_arguments(parser, shown=SHOWN)


def run(namespace: argparse.Namespace) -> int:
    """Ask, purge and tell; returns the exit status. Raises GreenworkerError."""
    settings = settings_from(namespace)
    warn_of_process_list("purge", settings)
    names = settings.worker.taken_queues
    connection: Any = open_first(settings.broker.url, connection_options(settings))
    try:
        waiting = {name: count for name in names if (count := _waiting(connection, name)) is not None}
        for name in names:
            if name not in waiting:
                print(f"{name}: no such queue")
        if not waiting or not (namespace.force or _confirmed(waiting, mask(settings.broker.url))):
            return EXIT_OK
        for name in waiting:
            deleted = _purge(connection, name)
            print(f"{name}: {deleted} {'message' if deleted == 1 else 'messages'} deleted")
        return EXIT_OK
    finally:
        connection.release()


def _waiting(connection: Any, name: str) -> int | None:
    """How many messages wait in a queue; None if there is no such queue."""
    channel = connection.channel()  # one for each: a missing queue closes its channel
    try:
        declared = channel.queue_declare(queue=name, passive=True)
    except _channel_errors(connection) as exc:
        if getattr(exc, "reply_code", getattr(exc, "code", None)) in {404, "404"}:
            return None
        raise BrokerError(f"queue {name!r}: {exc}") from exc
    channel.close()
    return int(declared.message_count)


def _purge(connection: Any, name: str) -> int:
    channel = connection.channel()
    try:
        return int(channel.queue_purge(name) or 0)
    except _channel_errors(connection) as exc:
        raise BrokerError(f"queue {name!r}: {exc}") from exc


def _channel_errors(connection: Any) -> tuple[type[Exception], ...]:
    return (*connection.channel_errors, *connection.connection_errors)


def _confirmed(waiting: dict[str, int], broker: str) -> bool:
    total = ", ".join(f"{count} in {name}" for name, count in waiting.items())
    if not sys.stdin.isatty():
        raise UsageError(
            f"this would delete messages on {broker} ({total}), and no terminal is there to ask: add --force"
        )
    print(f"Delete these messages on {broker}: {total}. Type {CONFIRMATION} to go on: ", end="", flush=True)
    if sys.stdin.readline().strip().lower() == CONFIRMATION:
        return True
    print("Nothing was deleted.")
    return False
