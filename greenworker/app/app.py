"""App: what a project's tasks belong to, and the way to send them."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack, cast

from greenworker.app import eager
from greenworker.app.bulk import Call, send_all
from greenworker.app.context import TaskContext, worker_context
from greenworker.app.definitions import Definitions
from greenworker.app.eager import EagerResult
from greenworker.app.options import SendOptions
from greenworker.app.queues import queue_spec
from greenworker.app.result import AsyncResult
from greenworker.app.routes import Router, route
from greenworker.app.sending import Sender, new_message, send_options, serializer_of
from greenworker.app.services import load_app_settings, open_publisher, open_results, with_code_values
from greenworker.app.shared import Shared
from greenworker.app.shared_tasks import join_process
from greenworker.app.signature import Signature
from greenworker.app.task import Task
from greenworker.broker.delivery import QueueSpec
from greenworker.broker.publisher import Outgoing, Publisher
from greenworker.clock import Clock, SystemClock
from greenworker.errors import Retry
from greenworker.protocol.message import TaskMessage, decode_task, encode_task
from greenworker.results.base import ResultStore, is_rpc
from greenworker.settings.model import SERIALIZERS, Settings

FAR_ETA = 60.0  # seconds; nearer ones wait in the worker, whose timer is more exact than RabbitMQ's whole seconds
MANY_QUEUES = ("fanout", "headers")  # exchange types that a parked message, which goes to one queue, would pass by


class App(Definitions):
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
        router: Router | None = None,
        backend: str | None = None,
        task_cls: type[Task] = Task,
        include: Sequence[str] = (),
        set_as_current: bool = True,
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> None:
        """``router`` decides where messages go (app/routes.py); ``task_cls`` is the class of the App's tasks.

        ``include`` names modules with tasks, imported as those of ``autodiscover_tasks`` are. ``backend`` is Celery's
        name of ``results``. Shared tasks are sent through the App that was made last, but for ``set_as_current=False``.
        """
        super().__init__(name, task_cls, include)
        self._config = Path(config) if config is not None else None
        self._broker = broker
        self._results_url = results if results is not None else backend
        self._router = router
        self._clock = clock or SystemClock()
        self._settings = Shared(self._load)
        self._publisher: Shared[Publisher] = Shared(lambda: open_publisher(self.settings))
        self._results: Shared[ResultStore] = Shared(lambda: open_results(self.settings, lambda: self.publisher))
        self._reply_to = str(uuid.uuid4())
        self.run_coroutine: Callable[[Coroutine[Any, Any, Any]], Any] = _run_alone  # a worker sets its own
        if settings is not None:
            self._settings.set(settings)
        join_process(self)
        if set_as_current:
            self.set_current()

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

    @contextmanager
    def lent(self, settings: Settings) -> Iterator[None]:
        """Use ``settings``, and connections of their own, for the length of the block: for tests."""
        own = self._settings, self._publisher, self._results, self.run_coroutine
        self._settings = Shared(lambda: settings)
        self._publisher = Shared(lambda: open_publisher(settings))
        self._results = Shared(lambda: open_results(settings, lambda: self.publisher))
        try:
            yield
        finally:
            self.close()
            self._settings, self._publisher, self._results, self.run_coroutine = own

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
        if self.settings.task.always_eager:
            return self._run_eagerly(name, args, kwargs, options)
        message, outgoing = self.prepare(name, args, kwargs, options)
        self.publisher.publish([outgoing])
        return self.AsyncResult(message.id)

    def bulk(self, calls: Iterable[Call]) -> list[AsyncResult]:
        """Send many tasks, 500 to a round trip with the broker; returns when it has confirmed all.

        A call is a signature, or ``(task, args, kwargs, options)`` of which the last ones may be left out. Raises as
        ``send_task`` does, for a broker that does not confirm BulkError: it has what was sent and what was not. Then,
        or when one call is wrong, the chunks before it are sent already.
        """
        return send_all(self, calls)

    def prepare(
        self, name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> tuple[TaskMessage, Outgoing]:
        """What ``send_task`` of the same would publish."""
        routed = route(self._router, self.settings.routes, name, args, kwargs, options)
        merged = send_options(name, self.tasks.find(name), cast(SendOptions, options), routed)
        message = self.message(name, args, kwargs, merged)
        return message, self.outgoing(
            message,
            queue=merged.get("queue"),
            exchange=merged.get("exchange"),
            routing_key=merged.get("routing_key"),
            serializer=merged.get("serializer"),
            compression=merged.get("compression"),
        )

    def _run_eagerly(
        self, name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: SendOptions
    ) -> EagerResult:
        """Run here what would be sent. It is encoded and decoded, for a task sees its arguments as a worker's does."""
        task = self.tasks[name]
        _, outgoing = self.prepare(name, args, kwargs, options)
        message = decode_task(outgoing.envelope, SERIALIZERS)
        return eager.run(task, message, throw=self.settings.task.eager_propagates)

    def apply(
        self,
        task: Task,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: SendOptions,
        *,
        throw: bool | None,
    ) -> EagerResult:
        """Run ``task`` here and now: see Task.apply."""
        message = self.message(task.name, args, kwargs, send_options(task.name, task, options), reply_to=self._reply_to)
        return eager.run(task, message, throw=self.settings.task.eager_propagates if throw is None else throw)

    def signature(
        self,
        task: str | Task | Mapping[str, Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **options: Any,
    ) -> Signature:
        """A call of a task, to be sent later. ``task`` may be a signature as a dict, as messages carry it."""
        return Signature(task, args, kwargs, options, immutable=immutable, app=self)

    def _reply_address(self) -> str:
        """The queue that results of what is sent come to, where they are sent and not stored; it is there then."""
        settings = self.settings
        sent = is_rpc(settings.results.url) and not settings.task.always_eager
        reply_to = self.results.reply_to() if sent else None
        return reply_to or self._reply_to

    def message(
        self,
        name: str,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: SendOptions,
        *,
        reply_to: str | None = None,
    ) -> TaskMessage:
        """The message of a new call, sent from this process, under the task that a worker runs here, if any."""
        reply_to = reply_to or self._reply_address()
        sender = Sender(origin=f"gen{os.getpid()}@{socket.gethostname()}", reply_to=reply_to)
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
        the serializer that the message came with, and is compressed as its task's messages are.
        """
        given = retry.signature
        serializer = given.get("serializer") or serializer_of(message.content_type)
        compression = given.get("compression") or self._compression_of(message.task)
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

    def _compression_of(self, name: str) -> str | None:
        task = self.tasks.find(name)
        return None if task is None else task.compression

    def queue_spec(self, name: str) -> QueueSpec:
        """The queue of that name, as ``[queue NAME]`` describes it."""
        return queue_spec(self.settings, name)

    def AsyncResult(self, task_id: str) -> AsyncResult:  # noqa: N802 - Celery's name
        """The result of a task that was sent with this id."""
        return AsyncResult(task_id, self)


def _run_alone(body: Coroutine[Any, Any, Any]) -> Any:
    import asyncio  # 1.3 MB, which a process without async tasks need not have

    return asyncio.run(body)
