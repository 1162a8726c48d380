"""The settings that tests run under: the project's own, but for what would reach out of the test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from greenworker.app.app import App
from greenworker.settings import Settings

CONCURRENCY = 10
SHUTDOWN_TIMEOUT = 5.0  # seconds: a test whose task hangs is to end


def embedded_settings(settings: Settings, folder: Path) -> Settings:
    """``settings`` with broker, results and state in ``folder``."""
    return replace(
        settings,
        broker=replace(settings.broker, url=(f"sqlite:///{folder}/broker.db",)),
        results=replace(settings.results, url=f"sqlite:///{folder}/results.db"),
        worker=replace(settings.worker, state_directory=str(folder)),
        task=replace(settings.task, always_eager=False),
    )


def eager_settings(settings: Settings, folder: Path) -> Settings:
    """The same for tasks that run where they are sent."""
    embedded = embedded_settings(settings, folder)
    return replace(embedded, task=replace(embedded.task, always_eager=True, eager_propagates=True))


def worker_settings(app: App, folder: Path) -> Settings:
    """The same for a worker on native threads: nothing in the test's process is patched.

    It takes every queue that the project's settings and tasks name.
    """
    embedded = embedded_settings(app.settings, folder)
    named = [embedded.task.default_queue, *embedded.worker.queues, *embedded.queues]
    named += [route.queue for route in embedded.routes.values() if route.queue]
    named += [task.queue for task in app.tasks.values() if task.queue]
    worker = replace(
        embedded.worker,
        pool="threads",
        concurrency=CONCURRENCY,
        queues=tuple(dict.fromkeys(named)),
        exclude_queues=(),
        shutdown_timeout=SHUTDOWN_TIMEOUT,
    )
    return replace(embedded, worker=worker)
