"""greenworker worker: runs one worker process in the foreground."""

from __future__ import annotations

import argparse
import logging

import greenworker
from greenworker.app.loader import load_app
from greenworker.broker.delivery import QueueSpec
from greenworker.errors import SettingsError
from greenworker.green.greens import library
from greenworker.green.patching import Audit, blocking_drivers, check
from greenworker.settings import Settings, add_arguments, mask, mask_url, settings_from
from greenworker.settings.command_line import process_list_warnings
from greenworker.worker.controller import WorkController
from greenworker.worker.hub import why_no_hub
from greenworker.worker.logs import lock_handlers_of_the_app, set_up

logger = logging.getLogger(__name__)

SUMMARY = "Run a worker: take tasks off the broker and run them in green threads."
_DESCRIPTION = """\
Run one worker in the foreground: take tasks off the broker and run them in green threads. With no [broker] url it makes
a broker of its own, a file in [worker] state_directory. It is ready for tasks when it prints "NAME ready"."""

EPILOG = """\
examples:
  greenworker worker -A shop.tasks:app -C shop.ini
  greenworker worker -A shop.tasks:app -b amqp://rabbit.example -Q orders,mail -c 2000

signals:
  TERM  warm shutdown: take no new work, wait [worker] shutdown_timeout for
        running tasks, put back the rest
  INT   once: warm; twice: cold
  QUIT  cold shutdown: put running tasks back now

exit codes:
   0  stopped, every task done
  64  wrong command line
  69  broker or results store unusable
  70  fault in the worker or app
  75  stopped, running tasks were put back
  78  wrong settings
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the worker's arguments: every setting."""
    parser.description = _DESCRIPTION
    parser.epilog = EPILOG
    add_arguments(parser)


def run(namespace: argparse.Namespace) -> int:
    """Start, work, stop; returns the exit code."""
    settings = settings_from(namespace)
    green = library(settings.worker.pool)
    set_up(settings.log, green)
    if settings.worker.app is None:
        raise SettingsError(["[worker] app: expected module:attribute such as shop.tasks:app (-A), got nothing"])
    app = load_app(settings.worker.app)
    lock_handlers_of_the_app(green)
    settings = app.use_settings(settings)
    _report_unpatched(namespace.audit, settings)
    controller = WorkController(app, settings, on_ready=_print_ready)
    print(banner(controller), flush=True)
    for text in process_list_warnings(settings):
        logger.warning("%s", text)
    return controller.run()


def _report_unpatched(audit: Audit, settings: Settings) -> None:
    """Log what may block every task, or refuse to start: see ``[worker] strict``. Raises PatchError."""
    findings = (*audit.findings, *blocking_drivers(settings.worker.pool))
    check(findings, settings.worker.strict)
    if audit.early:
        logger.debug("Imported before patching, and patched in place: %s", ", ".join(audit.early))
    for finding in findings:
        logger.warning("Not green: %s", finding)


def banner(controller: WorkController) -> str:
    """What is about to run, for people."""
    settings, app = controller.settings, controller.app
    slots = f"{settings.worker.pool}, {controller.pool.size} slots"
    reason = why_no_hub(controller.capabilities.green, settings.broker.url[0])
    loop = f"synloop ({reason})" if reason else "asynloop (kombu's hub: the pool is not green and the broker can)"
    rows = {
        "app": f"{app.name}, {len(app.tasks)} tasks",
        "pool": slots,
        "broker": ", ".join(mask_url(url) for url in settings.broker.url),
        "results": mask(settings.results.url) or "none",
        "queues": ", ".join(_queue(queue) for queue in controller.queues.values()),
        "loop": loop,
    }
    lines = [f"greenworker {greenworker.__version__} {controller.hostname}"]
    return "\n".join(lines + [f"  {name:<8} {value}" for name, value in rows.items()])


def _queue(queue: QueueSpec) -> str:
    return queue.name if queue.type == "classic" else f"{queue.name} ({queue.type})"


def _print_ready(hostname: str) -> None:
    print(f"{hostname} ready", flush=True)
