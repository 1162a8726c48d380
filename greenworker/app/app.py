"""App: what a project's tasks belong to, and the way to send them."""

from __future__ import annotations

import inspect
import os
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, cast, overload

from greenworker.app.context import TaskContext, worker_context
from greenworker.app.naming import task_name
from greenworker.app.options import SendOptions, TaskOptions
from greenworker.app.queues import queue_spec
from greenworker.app.registry import Registry
from greenworker.app.result import AsyncResult
from greenworker.app.sending import Sender, new_message, send_options, serializer_of
from greenworker.app.services import load_app_settings, open_publisher, open_results, with_code_values
from greenworker.app.shared import Shared
from greenworker.app.task import Task
from greenworker.broker.delivery import QueueSpec
from greenworker.broker.publisher import Outgoing, Publisher
from greenworker.clock import Clock, SystemClock
from greenworker.errors import Retry
from greenworker.protocol.message import TaskMessage, encode_task
from greenworker.results.base import ResultStore
from greenworker.settings.model import Settings

FAR_ETA = 60.0  # seconds; nearer ones wait in the worker, whose timer is more exact than RabbitMQ's whole seconds
MANY_QUEUES = ("fanout", "headers")  # exchange types that a parked message, which goes to one queue, would pass by


class App:
    """A named set of tasks, with the broker and the results store that they are sent through.

    Nothing is read or opened before it is needed. Settings come from ``config`` (one INI file; without it the file that
    GREENWORKER_CONFIG names), the environment and the defaults; ``broker`` and ``results`` are the URLs where none of
    those gives one. Any thread or greenlet may use an App; a forked child opens its own connections.
    """

    def __init__(
        self,
        name: str,
        *,
        config: str | Path | None = None,
        broker: str | None = None,
        results: str | None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.tasks = Registry()
        self._config = Path(config) if config is not None else None
        self._broker = broker
        self._results_url = results
        self._clock = clock or SystemClock()
        self._settings = Shared(self._load)
        self._publisher: Shared[Publisher] = Shared(lambda: open_publisher(self.settings))
        self._results: Shared[ResultStore] = Shared(lambda: open_results(self.settings))
        self._reply_to = str(uuid.uuid4())
        if settings is not None:
            self._settings.set(settings)

    def __repr__(self) -> str:
        return f"<App {self.name}: {len(self.tasks)} tasks>"

    def _load(self) -> Settings:
        return with_code_values(load_app_settings(self._config), self._broker, self._results_url)

    @property
    def settings(self) -> Settings:
        """The settings in force, read at first use. Raises SettingsError, all mistakes at once."""
        return self._settings.get()

    def use_settings(self, settings: Settings) -> Settings:
        """Use these instead of loading any: the worker hands in its own. Returns what is in force now.

        What the app's code gives (``broker=``, ``results=``) counts where ``settings`` has nothing but the default.
        """
        self.close()
        self._settings.set(with_code_values(settings, self._broker, self._results_url))
        return self.settings

    @property
    def publisher(self) -> Publisher:
        """What messages go out through. Raises BrokerError or StateFolderError when it cannot be opened."""
        return self._publisher.get()

    def use_publisher(self, publisher: Publisher) -> None:
        """Send through this one; whoever made it closes it."""
        self._publisher.set(publisher)

    @property
    def results(self) -> ResultStore:
        """Where results are read and stored. Raises ResultsError or StateFolderError when it cannot be opened."""
        return self._results.get()

    def use_results(self, results: ResultStore) -> None:
        """Read and store through this one; whoever made it (the worker) starts and stops it."""
        self._results.set(results)

    def close(self) -> None:
        """Close the connections and the store that the app opened. It can be used again: it opens new ones."""
        publisher, results = self._publisher.take(), self._results.take()
        if publisher is not None:
            publisher.close()
        if results is not None:
            results.stop()

    def __enter__(self) -> App:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @overload
    def task(self, function: Callable[..., Any], /) -> Task: ...

    @overload
    def task(self, **options: Unpack[TaskOptions]) -> Callable[[Callable[..., Any]], Task]: ...

    def task(
        self, function: Callable[..., Any] | None = None, **options: Any
    ) -> Task | Callable[[Callable[..., Any]], Task]:
        """Make a task of a function: ``@app.task`` or ``@app.task(bind=True, max_retries=5, ...)``.

        Raises AppError if another function has the task's name, TypeError for an unknown option.
        """
        if function is not None:
            return self._register(function, cast(TaskOptions, options))
        return lambda function: self._register(function, cast(TaskOptions, options))

    def _register(self, function: Callable[..., Any], options: TaskOptions) -> Task:
        if not callable(function) or inspect.isclass(function) or isinstance(function, Task):
            raise TypeError(f"@app.task makes a task of a function, and got {function!r}")
        name = options.get("name") or task_name(self.name, function.__module__, function.__name__)
        return self.tasks.register(Task(self, function, name, options))

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult:
        """Send a task by name, whether this process knows it or not; returns when the broker has confirmed it.

        Options as for ``Task.apply_async``, and it raises the same.
        """
        task = self.tasks.find(name)
        merged = send_options(name, task, options)
        message = self.message(name, args, kwargs, merged)
        outgoing = self.outgoing(
            message,
            queue=merged.get("queue"),
            exchange=merged.get("exchange"),
            routing_key=merged.get("routing_key"),
            serializer=merged.get("serializer"),
            compression=merged.get("compression"),
        )
        self.publisher.publish([outgoing])
        return self.AsyncResult(message.id)

    def message(
        self, name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: SendOptions
    ) -> TaskMessage:
        """The message of a new call, sent from this process, under the task that a worker runs here, if any."""
        sender = Sender(origin=f"gen{os.getpid()}@{socket.gethostname()}", reply_to=self._reply_to)
        parent: TaskContext | None = worker_context()
        return new_message(name, args, kwargs, options, now=self._clock.utcnow(), sender=sender, parent=parent)

    def outgoing(
        self,
        message: TaskMessage,
        *,
        queue: str | None = None,
        exchange: str | None = None,
        routing_key: str | None = None,
        serializer: str | None = None,
        compression: str | None = None,
    ) -> Outgoing:
        """``message``, encoded, with its way: ``queue``, else ``exchange`` and ``routing_key``, else the default queue.

        Serializer and compression are by default those of ``[task]``. Raises EncodeError.
        """
        task = self.settings.task
        envelope = encode_task(
            message, serializer=serializer or task.serializer, compression=compression or task.compression
        )
        if queue is None and exchange:
            return Outgoing(envelope, routing_key or "", exchange)
        spec = self.queue_spec(queue or routing_key or task.default_queue)
        if not spec.exchange:
            return Outgoing(envelope, spec.name, "", spec, self._broker_delay(message))
        delay = 0.0 if spec.exchange_type in MANY_QUEUES else self._broker_delay(message)
        return Outgoing(envelope, routing_key or spec.routing_key or spec.name, spec.exchange, spec, delay)

    def _broker_delay(self, message: TaskMessage) -> float:
        """Seconds that the broker is to keep ``message``: a far ETA waits there, where it costs no worker anything."""
        if message.eta is None:
            return 0.0
        delay = (message.eta - self._clock.utcnow()).total_seconds()
        return delay if delay >= FAR_ETA else 0.0

    def outgoing_retry(self, message: TaskMessage, retry: Retry, queue: str) -> Outgoing:
        """The next try of a message that came from ``queue``: back to that queue, unless the retry names another way.

        Straight to it, not through its exchange: a fanout or topic exchange would hand it to other queues too. It keeps
        the serializer that the message came with.
        """
        given = retry.signature
        serializer = given.get("serializer") or serializer_of(message.content_type)
        compression = given.get("compression")
        if given.get("queue") or given.get("exchange") or given.get("routing_key"):
            return self.outgoing(
                message,
                queue=given.get("queue"),
                exchange=given.get("exchange"),
                routing_key=given.get("routing_key"),
                serializer=serializer,
                compression=compression,
            )
        task = self.settings.task
        envelope = encode_task(
            message, serializer=serializer or task.serializer, compression=compression or task.compression
        )
        return Outgoing(envelope, queue, "", self.queue_spec(queue), self._broker_delay(message))

    def queue_spec(self, name: str) -> QueueSpec:
        """The queue of that name, as ``[queue NAME]`` describes it."""
        return queue_spec(self.settings, name)

    def AsyncResult(self, task_id: str) -> AsyncResult:  # noqa: N802 - Celery's name
        """The result of a task that was sent with this id."""
        return AsyncResult(task_id, self)
