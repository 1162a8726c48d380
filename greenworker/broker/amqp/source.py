"""RabbitMQ's task path: queues consumed over our chunked connection, settlements written together once a turn.

Prefetch has two forms. Shared: one limit a channel, over all its queues (classic queues, RabbitMQ before 4). By
consumer: each queue has a window of its own (quorum queues, RabbitMQ 4, queues whose kind is not known, and queues with
weights or in strict order), and an Arranger limits what is handed out. A larger prefetch takes more channels.

Nothing is published over this connection: RabbitMQ stops reading from one that publishes while an alarm is on, acks
included.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from amqp.exceptions import AMQPError, ChannelError, PreconditionFailed

from greenworker.broker.amqp.arranger import PATIENCE, Arranger
from greenworker.broker.amqp.channel import TaskChannel
from greenworker.broker.amqp.connection import Connection
from greenworker.broker.amqp.declare import declare
from greenworker.broker.amqp.delay import DelayTopology
from greenworker.broker.amqp.prefetch import split_prefetch, split_windows
from greenworker.broker.amqp.properties import PropertyDecoder
from greenworker.broker.connection import ConnectionLostError, ConnectionOptions, open_connection
from greenworker.broker.delivery import Delivery, QueueSpec, Settlement
from greenworker.broker.source import SourceOptions
from greenworker.errors import BrokerError
from greenworker.green.base import LoopWaiter

logger = logging.getLogger(__name__)

# At a shutdown the broker answers only when it has worked through all acks, and one that is given up too soon loses
# them: their tasks run again. Both waits and the rest of a shutdown have to fit into its HANG_TIMEOUT.
STOP_TIMEOUT = 10.0  # seconds that the broker may take to end our consumers
CLOSE_TIMEOUT = 10.0  # to answer the farewell
QUORUM_CLOSE_PAUSE = 0.05  # of 500 acks right before a close quorum queues lost 467; after a pause of 20 ms none
REDECLARE_INTERVAL = 5.0  # how soon a queue that vanished, and could not be declared again, is tried once more


class AmqpSource:
    """The Source (broker/source.py) of a RabbitMQ connection.

    Written by the loop alone: everything but what ``settle`` puts into a channel's settlements, and the wish of
    ``set_prefetch``.
    """

    asynchronous = True

    def __init__(
        self,
        connection: Any,
        on_delivery: Callable[[Delivery], None],
        waiter: LoopWaiter,
        *,
        strict_order: bool = False,
    ) -> None:
        self.connection: Connection = connection.connection
        self.decoder = PropertyDecoder()
        self.on_delivery = on_delivery
        self.receive = on_delivery  # what the channels call: on_delivery, or the arranger's door
        self.stopped = False
        self.closed = False
        self._kombu = connection
        self._waiter = waiter
        self._wake: Callable[[], None] = waiter.ring
        self._strict = strict_order
        self._queues: dict[str, QueueSpec] = {}
        self._channels: list[TaskChannel] = []
        self._wanted_prefetch = 0  # set_prefetch's, taken over at the next turn
        self._prefetch = 0
        self._arranger: Arranger | None = None  # None: one limit is shared by all queues
        self._inquiries: Any = None  # a channel, once it was needed: an error closes it, and must not close others
        self._vanished: dict[str, float] = {}  # queue name -> monotonic time of the next try to declare it
        self._heartbeat_at = 0.0
        self._hub: Any = None  # while registered
        self._hub_fd: int | None = None
        self._hub_wakes_at = 0.0
        self._looked_at = 0.0  # monotonic: all that came before was read

    @classmethod
    def connect(
        cls,
        url: str,
        connecting: ConnectionOptions,
        on_delivery: Callable[[Delivery], None],
        waiter: LoopWaiter,
        options: SourceOptions,
    ) -> AmqpSource:
        """Open the connection, too. Raises BrokerError."""
        connection = open_connection(url, connecting, waiter)
        return cls(connection, on_delivery, waiter, strict_order=options.strict_order)

    # --- called from anywhere -----------------------------------------------------------------------------------

    def settle(self, delivery: Delivery, settlement: Settlement) -> None:
        delivery.source.settle(delivery, settlement)

    def wake(self) -> None:
        if not self.closed:
            self._wake()

    def note_settled(self, queue: str) -> None:
        """A channel was told what becomes of a delivery of ``queue``."""
        if self._arranger is not None:
            self._arranger.settled(queue)

    @property
    def unsettled(self) -> int:
        waiting = 0 if self._arranger is None else self._arranger.waiting
        return sum(channel.settlements.unsettled for channel in self._channels) - waiting

    def set_prefetch(self, count: int) -> None:
        self._wanted_prefetch = max(1, count)
        self.wake()

    # --- what the consumer's steps call -------------------------------------------------------------------------

    def start(self, queues: Sequence[QueueSpec], prefetch: int) -> None:
        with self._telling_loss():
            as_described = [declare(self.connection, queue) for queue in queues]
            self._queues = {queue.name: queue for queue in queues}
            self._choose_limit(all(as_described))
            self._prefetch = self._wanted_prefetch = max(1, prefetch)
            self._apply()

    def add_queue(self, queue: QueueSpec) -> None:
        with self._telling_loss():
            as_described = declare(self.connection, queue)
            self._queues[queue.name] = queue
            self._choose_limit(as_described)
            self._apply()

    def bind_delays(self) -> None:
        """Let messages that clients send to Celery's delay exchanges reach the queues consumed here.

        Raises BrokerError if the broker refuses.
        """
        with self._telling_loss():
            try:
                topology = DelayTopology(self.connection)
                for queue in self._queues.values():
                    topology.bind(queue)
            except self._kombu.channel_errors as exc:
                raise BrokerError(f"the delay exchanges: {exc}") from exc

    def cancel_queue(self, name: str) -> None:
        with self._telling_loss():
            self._queues.pop(name, None)
            self._vanished.pop(name, None)
            for channel in self._channels:
                channel.cancel(name)
            self._give_back_waiting(name)
            if self._arranger is not None:
                self._apply()  # its share goes to the others

    def stop(self) -> None:
        if self.stopped:
            return
        self.stopped = True
        # From here on the worker is about to end: a broker that is this slow now counts as gone.
        self.connection.reply_timeout = min(self.connection.reply_timeout, STOP_TIMEOUT)
        with self._telling_loss():
            for channel in self._channels:
                channel.cancel_all()
        self._give_back_waiting()

    def close(self) -> None:
        if not self.closed:
            try:
                self._take_leave()
            except (OSError, AMQPError, BrokerError) as exc:
                logger.debug("Closing the broker connection: %s", exc)
        self.closed = True
        self._wake = _nobody_waits
        self._kombu.collect()
        self._waiter.close()

    def _take_leave(self) -> None:
        self.connection.reply_timeout = CLOSE_TIMEOUT
        self.stop()
        self._write()
        if self._arranger is not None:
            time.sleep(QUORUM_CLOSE_PAUSE)
            self._write()
        self.closed = True
        self._kombu.release()

    # --- the loop -----------------------------------------------------------------------------------------------

    def pump(self, timeout: float) -> None:
        with self._telling_loss():
            self._write()
            if self._vanished or self._wanted_prefetch != self._prefetch:
                timeout = min(timeout, self._maintain())
            self._hand_out()
            connection = self.connection
            beat = connection.heartbeat
            if not connection.buffered:
                within = min(timeout, beat / 4) if beat else timeout
                if self._arranger is not None and self._arranger.awaiting:
                    within = min(within, PATIENCE)
                if not self._waiter.wait(connection.sock.fileno(), within):
                    self._looked_at = time.monotonic()
                    self._heartbeat(beat)
                    return
            self._looked_at = time.monotonic()
            connection.read_ready()
            self._hand_out()
            self._heartbeat(beat)

    def flush(self) -> None:
        with self._telling_loss():
            self._write()

    def register(self, hub: Any, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._hub, self._hub_fd = hub, self.connection.sock.fileno()
        hub.add_reader(self._hub_fd, self._on_readable)

    def turn(self) -> None:
        with self._telling_loss():
            self._write()
            self._maintain()
            # What came along with a reply (of consume, of qos) is read already: the socket tells the hub nothing of it,
            # and a prefetch full of such deliveries would be waited on for ever.
            self._read_buffered()
            self._hand_out()
            self._bound_the_hubs_wait()
            self._heartbeat(self.connection.heartbeat)
            self._looked_at = time.monotonic()  # what comes until now, the hub reads before the next turn

    def unregister(self, hub: Any) -> None:
        self._wake = _nobody_waits if self.closed else self._waiter.ring
        if self._hub_fd is not None:  # by its number: a lost connection has no socket any more
            hub.remove(self._hub_fd)
            self._hub = self._hub_fd = None

    def _on_readable(self) -> None:
        with self._telling_loss():
            self.connection.read_ready()
            self._read_buffered()

    def _bound_the_hubs_wait(self) -> None:
        if self._hub is None or self._arranger is None or not self._arranger.awaiting:
            return
        now = time.monotonic()
        if now >= self._hub_wakes_at:
            self._hub.call_later(PATIENCE, _nobody_waits)
            self._hub_wakes_at = now + PATIENCE

    def _read_buffered(self) -> None:
        while self.connection.buffered:
            self.connection.read_ready()

    def _write(self) -> None:
        for channel in self._channels:
            channel.flush()

    def _hand_out(self) -> None:
        arranger = self._arranger
        if arranger is not None and arranger.waiting and not self.stopped:
            arranger.release(self._prefetch - self.unsettled, self._prefetch, self._looked_at)

    def _give_back_waiting(self, queue: str | None = None) -> None:
        if self._arranger is not None:
            for delivery in self._arranger.take_all(queue):
                delivery.requeue()

    def _heartbeat(self, beat: float) -> None:
        """Send one if it is time, and notice missing ones. After reading: what waits on the socket is life, too."""
        if not beat:
            return
        now = time.monotonic()
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + beat / 4
            self.connection.heartbeat_tick(rate=2)

    @contextlib.contextmanager
    def _telling_loss(self) -> Iterator[None]:
        if self.closed:
            raise ConnectionLostError("the broker connection is closed")
        try:
            yield
        except (OSError, AMQPError) as exc:
            self.closed = True
            raise ConnectionLostError(_loss_reason(exc)) from exc

    # --- prefetch and queues ------------------------------------------------------------------------------------

    def _shared_limit_works(self) -> bool:
        queues = self._queues.values()
        major = str(self.connection.server_properties.get("version", "")).partition(".")[0]
        return (
            not self._strict
            and all(queue.type == "classic" for queue in queues)
            and len({queue.weight for queue in queues}) <= 1
            and major.isdigit()
            and int(major) < 4
        )

    def _choose_limit(self, as_described: bool) -> None:
        """From one shared limit to windows, where the queues ask for it; never back."""
        if self._arranger is None and not (as_described and self._shared_limit_works()):
            self._arranger = Arranger(self._deliver, self._has_backlog, strict=self._strict)
            self.receive = self._arranger.add

    def _has_backlog(self, queue: str) -> bool:
        """Ask the broker whether messages wait there. One that is gone, or not ours to ask about, has none."""
        try:
            if self._inquiries is None:
                self._inquiries = self.connection.channel()
            return bool(self._inquiries.queue_declare(queue, passive=True).message_count)
        except ChannelError:  # it is closed by it
            self._inquiries = None
            return False

    def _deliver(self, delivery: Delivery) -> None:
        self.on_delivery(delivery)

    def _apply(self) -> None:
        """Bring channels, limits and consumers in line with queues and prefetch."""
        if self.stopped:
            return
        shares = split_prefetch(self._prefetch)
        while len(self._channels) < len(shares):
            self._channels.append(TaskChannel(self, len(self._channels) + 1))
        for channel in self._channels[len(shares) :]:  # 0 would be unlimited: a channel too many stops consuming
            channel.cancel_all()
        consumed = [queue for name, queue in self._queues.items() if name not in self._vanished]
        if self._arranger is not None:
            windows = [split_windows(share, consumed, strict=self._strict) for share in shares]
            self._arranger.set_queues(
                {name: queue.weight for name, queue in self._queues.items()},
                {queue.name: sum(each[queue.name] for each in windows) for queue in consumed},
            )
            for channel, each in zip(self._channels, windows, strict=False):
                channel.consume_windows(consumed, each)
            return
        for channel, share in zip(self._channels, shares, strict=False):
            channel.consume_shared(consumed, share)

    def _maintain(self) -> float:
        """Take over a new prefetch, declare vanished queues; returns in how many seconds there is more to do."""
        if self._wanted_prefetch != self._prefetch:
            self._prefetch = self._wanted_prefetch
            self._apply()
        now = time.monotonic()
        due = [name for name, at in self._vanished.items() if at <= now]
        if due and not self.stopped:
            self._redeclare(due, now + REDECLARE_INTERVAL)
        return max(0.0, min(self._vanished.values(), default=now + REDECLARE_INTERVAL) - now)

    def queue_vanished(self, name: str) -> None:
        """The broker ended a consumer: its queue was deleted, or moved to another node."""
        if name in self._queues and name not in self._vanished:
            logger.warning("Queue %s is gone from the broker: declaring it again.", name)
            self._vanished[name] = 0.0
            self.wake()

    def _redeclare(self, names: Sequence[str], next_try: float) -> None:
        for name in names:
            try:
                as_described = declare(self.connection, self._queues[name])
            except (*self._kombu.channel_errors, BrokerError) as exc:
                logger.warning("Queue %s cannot be declared, next try in %g s: %s", name, REDECLARE_INTERVAL, exc)
                self._vanished[name] = next_try
            else:
                del self._vanished[name]
                self._choose_limit(as_described)
                self._apply()
                logger.info("Queue %s is back, consuming.", name)


def _nobody_waits() -> None:
    """Wakes nobody: the source is closed."""


def _loss_reason(exc: Exception) -> str:
    if isinstance(exc, PreconditionFailed) and "timed out" in str(exc.reply_text):
        return f"RabbitMQ gave up on a task that ran longer than its consumer_timeout allows: {exc.reply_text}"
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
