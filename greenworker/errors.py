"""Every exception greenworker raises or understands, classed by who is at fault and what can be done.

Names ending in ``Error`` say that something failed. Bare nouns (Retry, Reject, Ignore) are what task code raises to ask
for something. Exit codes follow sysexits.h, so that systemd and scripts can tell the cases apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

EXIT_OK = 0
EXIT_USAGE = 64  # EX_USAGE: the command line is wrong
EXIT_UNAVAILABLE = 69  # EX_UNAVAILABLE: the broker or the results store cannot be used
EXIT_SOFTWARE = 70  # EX_SOFTWARE: a fault of greenworker's own, or of the app at import
EXIT_PUT_BACK = 75  # EX_TEMPFAIL: stopped, and running tasks were put back on the broker
EXIT_CONFIG = 78  # EX_CONFIG: settings are wrong


class GreenworkerError(Exception):
    """Base of all errors that greenworker raises itself; ``exit_code`` is what a command exits with."""

    exit_code = EXIT_SOFTWARE


class SettingsError(GreenworkerError):
    """One or more mistakes in INI files, environment or command line; ``problems`` has a finished line for each."""

    exit_code = EXIT_CONFIG

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class UsageError(GreenworkerError):
    """The command line asks for something that cannot be done."""

    exit_code = EXIT_USAGE


class AppError(GreenworkerError):
    """The app named by ``[worker] app`` cannot be imported or is not an App."""

    exit_code = EXIT_CONFIG


class PatchError(GreenworkerError):
    """Modules that must be patched were imported before patching, and ``[worker] strict`` is on."""

    exit_code = EXIT_CONFIG


class BrokerError(GreenworkerError):
    """The broker cannot be reached, refuses us, or closed on us; the work can be tried again later."""

    exit_code = EXIT_UNAVAILABLE


class PublishError(BrokerError):
    """A message was not confirmed by the broker in time; it may or may not be on its queue.

    ``unpublished`` holds the messages of the call that were not confirmed, where the publisher knows them; None: all.
    """

    unpublished: Sequence[Any] | None = None


class BulkError(PublishError):
    """Some of many tasks were not confirmed by the broker in time.

    ``sent`` has the results of those that were; ``unsent`` those of the same round trip that were not, as signatures
    with their ids, so that ``app.bulk(error.unsent)`` sends each again as the same task. What came after them in the
    call was not taken.
    """

    def __init__(self, message: str, sent: list[Any], unsent: list[Any]) -> None:
        self.sent = sent
        self.unsent = unsent
        super().__init__(message)


class ResultsError(GreenworkerError):
    """The results store cannot be used."""

    exit_code = EXIT_UNAVAILABLE


class ResultsAwayError(ResultsError):
    """The results store cannot be reached just now; it can be tried again."""


class StateFolderError(GreenworkerError):
    """The embedded broker's folder or file cannot be opened; the message says who may and how to mend it."""

    exit_code = EXIT_UNAVAILABLE


class MalformedMessage(GreenworkerError):  # noqa: N818 - it names the message, which is what failed
    """A message that is no valid task message. ``reason`` says what was expected and what came."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class NotRegistered(GreenworkerError):  # noqa: N818 - Celery's name, seen by its clients in stored results
    """No task of this name is registered with the app."""


class EncodeError(GreenworkerError):
    """A value cannot be encoded with the chosen serializer."""


class ResultTimeoutError(GreenworkerError, TimeoutError):
    """``AsyncResult.get`` waited for its ``timeout`` and no result came. ``found`` says what was there instead."""

    found = ""


class MaxRetriesExceededError(GreenworkerError):
    """A task asked for a retry when ``max_retries`` were used up."""


class SoftTimeLimitExceeded(Exception):  # noqa: N818 - Celery's name
    """Raised inside a task when its soft time limit is over; the task may catch it and clean up."""


class TimeLimitExceeded(Exception):  # noqa: N818 - Celery's name; what the stored result of a timed-out task holds
    """The hard time limit (seconds in ``args[0]``) ended the task."""


class TaskRevokedError(Exception):
    """The task was revoked, or expired before it could start; what its stored result holds."""


class TaskLostError(Exception):
    """The worker stopped while the task ran, and its message was acked before: nobody runs it again."""


class UnstorableResultError(Exception):
    """A task's return value or exception could not be encoded; stored in its place."""


class StopTask(BaseException):
    """Thrown into a running task by the worker: its hard limit is over, or it is put back or revoked.

    A BaseException, so that ``except Exception`` in task code does not swallow it. Never raised by task code.
    """


class Ignore(Exception):  # noqa: N818 - Celery's name
    """Raised by a task: leave no result, acknowledge the message."""


class Reject(Exception):  # noqa: N818 - Celery's name
    """Raised by a task: give the message back (``requeue=True``) or send it to the dead-letter queue."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(reason, requeue)


class Retry(Exception):  # noqa: N818 - Celery's name
    """Raised by ``Task.retry``: run again at ``when`` (aware UTC datetime, seconds from now, or None: at once).

    ``exc`` is why. ``signature`` is filled in by ``Task.retry``: the message options of the next try. ``sent`` is True
    once the next message is on its queue (``Task.retry(throw=False)``), so that nobody sends it again.
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        when: datetime | float | None = None,
        *,
        signature: dict[str, Any] | None = None,
    ) -> None:
        self.message = message
        self.exc = exc
        self.when = when
        self.signature = signature or {}
        self.sent = False
        super().__init__(message, exc, when)

    def __str__(self) -> str:
        due = "now"
        if self.when is not None:
            due = f"in {self.when}s" if isinstance(self.when, (int, float)) else f"at {self.when}"
        return self.message or f"Retry {due}" + (f": {self.exc!r}" if self.exc else "")
