"""The reply queue: where a process gets the results of the tasks that it sent, over one connection for all who wait.

The queue is declared as Celery's rpc backend declares its own: durable, deleted by the broker when its consumer is
gone, or when it was not used for as long as results are kept. So what comes while the connection is down is lost, as
with Celery; whoever cannot have that stores results.

A service thread reads it, with kombu's consumer, whatever the broker is; messages count as taken when they are sent.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from kombu.entity import Exchange, Queue
from kombu.messaging import Consumer

from greenworker.broker.connection import ConnectionOptions, open_first
from greenworker.errors import BrokerError, ResultsError

logger = logging.getLogger(__name__)

TURN = 0.5  # seconds of one wait for messages
READY_TIMEOUT = 10.0
RECONNECT_DELAY, RECONNECT_DELAY_MAX = 0.1, 5.0
JOIN_TIMEOUT = 3.0

OnReply = Callable[[str, bytes | str, str, str], None]  # task id, document, content type and encoding


class ReplyQueue:
    """Any greenlet or thread may call ``ensure``. ``name`` is the queue's."""

    def __init__(
        self, name: str, urls: Sequence[str], options: ConnectionOptions, *, expires: float | None, on_reply: OnReply
    ) -> None:
        """``on_reply`` is called by the thread; ResultsError is what it may raise."""
        self.name = name
        self._urls = urls
        self._options = options
        self._on_reply = on_reply
        self._queue = Queue(  # type: ignore[no-untyped-call]
            name,
            Exchange(""),  # type: ignore[no-untyped-call]
            name,
            durable=True,
            auto_delete=True,
            expires=expires,
        )
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._error: Exception | None = None  # why there is no connection; written by the thread

    def ensure(self) -> str:
        """Returns the queue's name when it is there. Raises BrokerError if it is not within READY_TIMEOUT seconds."""
        if not self._ready.is_set():
            with self._lock:
                if self._thread is None:
                    self._stopping.clear()
                    self._thread = threading.Thread(target=self._serve, name="replies", daemon=True)
                    contextvars.Context().run(self._thread.start)  # it belongs to no task
            if not self._ready.wait(READY_TIMEOUT):
                raise BrokerError(f"the queue for results of what this process sends cannot be declared: {self._error}")
        return self.name

    def stop(self) -> None:
        """End the thread; the broker deletes the queue. Can be used again."""
        self._stopping.set()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(JOIN_TIMEOUT)

    def _serve(self) -> None:
        delay = RECONNECT_DELAY
        while not self._stopping.is_set():
            connection = None
            try:
                connection = open_first(self._urls, self._options)
                self._consume(connection)
                delay = RECONNECT_DELAY
                while not self._stopping.is_set():
                    self._turn(connection)
            except Exception as exc:  # whatever a driver raises: all waits of the process hang on this thread
                self._error = exc
                lost = self._ready.is_set()
                logger.log(
                    logging.WARNING if lost else logging.DEBUG, "No results come, next try in %.1f s: %s", delay, exc
                )
            finally:
                self._ready.clear()
                if connection is not None:
                    connection.collect()
            self._stopping.wait(delay)
            delay = min(delay * 2, RECONNECT_DELAY_MAX)

    def _consume(self, connection: Any) -> None:
        consumer = Consumer(  # type: ignore[no-untyped-call]
            connection.channel(), queues=[self._queue], on_message=self._on_message, no_ack=True
        )
        consumer.consume()  # type: ignore[no-untyped-call]
        self._ready.set()

    def _turn(self, connection: Any) -> None:
        try:
            connection.drain_events(timeout=TURN)
        except TimeoutError:
            pass  # nothing came
        if connection.heartbeat:
            connection.heartbeat_check()

    def _on_message(self, message: Any) -> None:
        task_id = str((message.properties or {}).get("correlation_id"))
        try:
            self._on_reply(task_id, message.body, message.content_type, message.content_encoding)
        except ResultsError as exc:
            logger.error("A message on the queue for results is none: %s", exc)
