"""``greenworker call``: send one task from the shell, and print its result if asked to."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn, cast

from greenworker import units
from greenworker.app.app import App
from greenworker.app.loader import load_app
from greenworker.app.options import SendOptions
from greenworker.app.result import AsyncResult
from greenworker.cli.messages import warn, warn_of_process_list
from greenworker.errors import EXIT_OK, EXIT_UNAVAILABLE, AppError, EncodeError, ResultTimeoutError, UsageError
from greenworker.results.base import NO_RESULTS
from greenworker.settings.command_line import WORDS, add_arguments, settings_from
from greenworker.settings.model import Settings
from greenworker.settings.secrets import mask

COMMAND = "call"
SUMMARY = "Send a task; with --wait, print its result."
EXIT_TASK_FAILED = 1
WAIT_TIMEOUT = 300.0
OPTIONS = ("countdown", "eta", "expires", "queue", "priority", "task_id")
QUIET_TIME = 1.5  # seconds; longer waits for the broker are told
SHOWN = (
    "worker.app",
    "worker.state_directory",
    "task.default_queue",
    "task.serializer",
    "task.compression",
    "broker.url",
    "broker.connect_timeout",
    "broker.publish_timeout",
    "broker.tls_ca",
    "broker.tls_cert",
    "broker.tls_key",
    "broker.tls_verify",
    "results.url",
)

_DESCRIPTION = """\
Send a task, and print its id. With --wait, wait for the task to end and print what it returned, as JSON where that is
possible. Each argument is read as JSON where it is JSON, and is text otherwise. Options may stand before, between and
after arguments; what follows -- is an argument whatever it begins with.

With an app (-A, or [worker] app in the INI file) the options that the task was defined with count, its queue among
them; without one the task is sent by its name alone. Then nobody here can tell whether a worker knows that name:
--wait waits, and a worker that takes the message and has no such task lets it fail with NotRegistered."""

_EPILOG = """\
exit codes:
   0  sent; with --wait: and succeeded
   1  with --wait: the task failed
  64  wrong command line
  69  broker or results store unusable, or no result in time
  78  wrong settings

examples:
  greenworker call shop.tasks.add 2 -2 --wait
  greenworker call shop.tasks.add 2 2 --kwargs '{"z": 1}' --queue sums
  greenworker call -A shop.tasks:app shop.tasks.mail '"ada@example.org"' --countdown 5m
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.usage = "%(prog)s [OPTIONS] TASK [ARG ...]"
    parser.add_argument(
        WORDS,
        metavar="TASK [ARG ...]",
        nargs="*",
        help="name of the task, such as shop.tasks.add, and its positional arguments, each JSON or text",
    )
    parser.add_argument("--kwargs", metavar="JSON", type=_json_object, default={}, help="keyword arguments, an object")
    parser.add_argument("--countdown", metavar="TIME", type=_duration, help="start no sooner than this: 30s, 5m")
    parser.add_argument(
        "--eta", metavar="DATE", help="start no sooner than this date and time, ISO 8601, UTC by default"
    )
    parser.add_argument("--expires", metavar="TIME", type=_duration, help="do not start after this: 30s, 5m")
    parser.add_argument("--queue", metavar="NAME", help="queue (default: the task's own, else [task] default_queue)")
    parser.add_argument("--priority", metavar="N", type=int, help="priority, 0 to 255, where the queue has them")
    parser.add_argument("--task-id", metavar="ID", help="id of the task (default: a new one)")
    parser.add_argument("--wait", action="store_true", help="wait for the task to end and print what it returned")
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=_duration,
        default=WAIT_TIMEOUT,
        help=f"how long --wait waits (default: {units.format_duration(WAIT_TIMEOUT)})",
    )
    add_arguments(parser, shown=SHOWN)


def run(namespace: argparse.Namespace) -> int:
    """Send the task; returns the exit status. Raises GreenworkerError for what keeps it from being sent."""
    if not namespace.words:
        raise UsageError("expected TASK, the name of a task, such as shop.tasks.add; see --help")
    name, *texts = namespace.words
    settings = settings_from(namespace)
    if settings.origin("worker", "queues").kind == "override":
        raise UsageError("-Q names the queues that a worker takes tasks from; name the one to send to with --queue")
    warn_of_process_list(COMMAND, settings)
    app = _app(settings, name)
    with app:
        if namespace.wait:
            _check_results(app, name)
        with _telling_of_a_wait(app.settings):
            result = _send(app, name, [_json_or_text(text) for text in texts], namespace)
        if not namespace.wait:
            print(result.id)
            return EXIT_OK
        return _print_result(result, name, namespace.timeout)


def _app(settings: Settings, task: str) -> App:
    """The app whose options count, or an empty one."""
    name = settings.worker.app
    asked_for = settings.origin("worker", "app").kind == "override"
    app = App("greenworker")
    try:
        if name is not None:
            app = load_app(name)
    except AppError as exc:
        if asked_for:
            raise
        warn(COMMAND, f"{exc}\nThe task is sent by its name alone, without options of its own.")
    app.use_settings(settings)
    if len(app.tasks) and app.tasks.find(task) is None:
        unknown = app.tasks.unknown(task)
        if asked_for:
            raise UsageError(f"{unknown}\nLeave out -A to send it by its name alone.")
        warn(COMMAND, f"app {name!r}: {unknown}\nThe task is sent by its name alone.")
    return app


def _check_results(app: App, name: str) -> None:
    """Before anything is sent: see that a result can come. Raises UsageError, or what opening the store raises."""
    if app.settings.results.url in {None, NO_RESULTS}:
        raise UsageError("--wait: there is no results store to read from; set [results] url, or leave out --wait")
    task = app.tasks.find(name)
    if task is not None and task.ignore_result:
        raise UsageError(f"--wait: task {name} leaves no result, for ignore_result is on; leave out --wait")
    _ = app.results


@contextlib.contextmanager
def _telling_of_a_wait(settings: Settings) -> Iterator[None]:
    """Tell whoever sits at the terminal what is waited for, when it takes longer than they would expect."""
    at_most = units.format_duration(settings.broker.publish_timeout)
    text = f"greenworker call: waiting for the broker {mask(settings.broker.url)}, for {at_most} at most"
    timer = threading.Timer(QUIET_TIME, print, [text], {"file": sys.stderr})
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _send(app: App, name: str, arguments: list[Any], namespace: argparse.Namespace) -> AsyncResult:
    options: dict[str, Any] = {key: value for key in OPTIONS if (value := getattr(namespace, key)) is not None}
    task = app.tasks.find(name)
    try:
        if task is not None:
            return task.apply_async(arguments, namespace.kwargs, **cast(SendOptions, options))
        return app.send_task(name, arguments, namespace.kwargs, **cast(SendOptions, options))
    except (TypeError, ValueError, EncodeError) as exc:
        raise UsageError(str(exc)) from exc


def _print_result(result: AsyncResult, name: str, timeout: float) -> int:
    try:
        value = result.get(timeout=timeout, propagate=False)
    except ResultTimeoutError:
        print(
            f"greenworker call: task {result.id} was sent, but there is no result after "
            f"{units.format_duration(timeout)}: is a worker running that takes its queue and stores results in the "
            "same place?",
            file=sys.stderr,
        )
        return EXIT_UNAVAILABLE
    if result.successful():
        print(_shown(value))
        return EXIT_OK
    print(f"greenworker call: {name} [{result.id}] {result.state}: {_failure(value)}", file=sys.stderr)
    if result.traceback:
        print(result.traceback.rstrip(), file=sys.stderr)
    return EXIT_TASK_FAILED


def _failure(value: Any) -> str:
    return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else repr(value)


def _shown(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_json)
    except ValueError:
        return text


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_json)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"expected a JSON object such as '{{\"z\": 1}}': {exc}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object such as '{{\"z\": 1}}', got {text!r}")
    return value


def _no_json(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")  # Python's parser takes NaN and Infinity, no other does


def _duration(text: str) -> float:
    try:
        return units.parse_duration(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{exc}, got {text!r}") from None
