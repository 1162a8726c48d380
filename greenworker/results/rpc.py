"""Results sent over the broker to whoever sent the task, as messages of Celery's rpc backend: nothing is stored.

A result goes to the default exchange with the task's ``reply_to`` as routing key and its ``correlation_id``, which is
the task's id. A task without ``reply_to`` has nobody to tell. A reply queue that is gone has nobody behind it either:
that is no error. On the other side every process has one reply queue (replies.py), and knows the latest states.
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from amqp.exceptions import ChannelError

from greenworker.broker.connection import is_redis
from greenworker.broker.delivery import Envelope, QueueSpec
from greenworker.broker.publisher import Outgoing
from greenworker.errors import PublishError
from greenworker.protocol.results import SUCCESS, ResultMeta
from greenworker.results.base import Broker, ResultsOptions
from greenworker.results.record import Record, RefusedRecordError
from greenworker.results.replies import ReplyQueue
from greenworker.results.written import WrittenResults, final, is_final
from greenworker.settings.secrets import mask

STATES_LIMIT = 10_000  # states kept of tasks that nobody waits for at the moment
TRANSIENT, PERSISTENT = 1, 2


class RpcResults(WrittenResults):
    """The ResultStore (results/base.py) behind ``rpc://``."""

    def __init__(self, broker: Broker, options: ResultsOptions) -> None:
        super().__init__(f"rpc:// over {mask(broker.urls)}", options)
        self._broker = broker
        self._delivery_mode = PERSISTENT if options.persistent else TRANSIENT
        self._replies = ReplyQueue(
            str(uuid.uuid4()), broker.urls, options.connecting, expires=options.expires, on_reply=self._on_reply
        )
        self._lock = threading.Lock()  # guards the two below
        self._states: OrderedDict[str, ResultMeta] = OrderedDict()  # the latest to come is the last
        self._waits: dict[str, list[_Wait]] = {}

    def start(self) -> None:
        """Nothing to open: the reply queue is made before the first task is sent, the rest is the publisher's."""
        self.writer.start()

    def reply_to(self) -> str:
        return self._replies.ensure()

    def stop(self) -> None:
        self.writer.stop()
        self._replies.stop()

    # --- writing, by the writer's thread ------------------------------------------------------------------------

    def write(self, batch: Sequence[Record]) -> Mapping[Record, Exception]:
        outgoing = {record: self._outgoing(record) for record in batch if record.meta.reply_to}
        if not outgoing:
            return {}
        try:
            self._broker.publisher().publish(list(outgoing.values()))
        except PublishError as exc:
            left = outgoing.values() if exc.unpublished is None else exc.unpublished
            # A channel error is the broker's word on a message: with others in the batch it is not known on which one.
            refused = len(outgoing) == 1 and isinstance(exc.__cause__, ChannelError)
            reason = RefusedRecordError(str(exc)) if refused else exc
            return {record: reason for record, message in outgoing.items() if message in left}
        return {}

    def _outgoing(self, record: Record) -> Outgoing:
        envelope = Envelope(
            record.body,
            record.content_type,
            record.content_encoding,
            {},
            {
                "correlation_id": record.meta.correlation_id or record.task_id,
                "delivery_mode": self._delivery_mode,
                "priority": 0,
            },
        )
        address = record.meta.reply_to or ""
        return Outgoing(envelope, address, queue=self._as_redis_knows_it(address), mandatory=False)

    def _as_redis_knows_it(self, address: str) -> QueueSpec | None:
        """On Redis a queue is there as soon as something is put on it: what nobody fetches must go by itself."""
        if not is_redis(self._broker.urls[0]) or not self.options.expires:
            return None
        return QueueSpec(address, declare=False, arguments={"x-expires": int(self.options.expires * 1_000)})

    # --- reading ------------------------------------------------------------------------------------------------

    def get(self, task_id: str) -> ResultMeta | None:
        with self._lock:
            return self._states.get(task_id)

    def wait(self, task_id: str, timeout: float) -> ResultMeta:
        wait = _Wait()
        with self._lock:
            wait.meta = self._states.get(task_id)
            if wait.meta is not None and is_final(wait.meta):
                return wait.meta
            self._waits.setdefault(task_id, []).append(wait)
        try:
            wait.over.wait(timeout)
        finally:
            with self._lock:
                self._waits[task_id].remove(wait)
                if not self._waits[task_id]:
                    del self._waits[task_id]
        return final(wait.meta, task_id, timeout)

    def forget(self, task_id: str) -> None:
        with self._lock:
            self._states.pop(task_id, None)

    def _on_reply(self, task_id: str, document: bytes | str, content_type: str, content_encoding: str) -> None:
        """Called by the reply queue's thread. Raises ResultsError for what is no result."""
        meta = self.decoded(task_id, document, content_type, content_encoding)
        with self._lock:
            known = self._states.get(meta.task_id)
            if known is not None and (known.status == SUCCESS or (is_final(known) and not is_final(meta))):
                return  # one that was overtaken
            self._states[meta.task_id] = meta
            self._states.move_to_end(meta.task_id)
            while len(self._states) > STATES_LIMIT:
                self._states.popitem(last=False)
            for wait in self._waits.get(meta.task_id, ()):
                wait.meta = meta  # in its own hands: it may not be among the latest any more when it wakes up
                if is_final(meta):
                    wait.over.set()


class _Wait:
    """Somebody waits for a final state; ``meta`` is the latest one."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.meta: ResultMeta | None = None
