"""Redis' task path: messages taken in batches, settlements written in the same round trip, an idle wait on a bell.

The rule this file keeps: what is lost is a session, not a socket. Messages are leased to the session (session.py), and
a broken line is replaced under it (line.py), with all that it holds and all that waits in the outbox. A
ConnectionLostError comes when the session itself is over: its lease ran out, Redis has forgotten it, or was away for as
long.

In doubt (a line that broke in mid-turn) everything is sent again: a tag is settled once, whoever asks how often. What
a take has taken whose reply never came is found among what the session holds, and put back.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from redis.exceptions import ReadOnlyError, ResponseError

from greenworker.broker.connection import ConnectionLostError, ConnectionOptions
from greenworker.broker.delivery import Delivery, QueueSpec, Settlement
from greenworker.broker.redis.hub import HubPlace
from greenworker.broker.redis.intake import Intake
from greenworker.broker.redis.keeper import Keeper
from greenworker.broker.redis.line import Line
from greenworker.broker.redis.link import LINK_ERRORS, SILENCE_LIMIT, Command, checked, code_of, meaning_of
from greenworker.broker.redis.outbox import Outbox, Settled
from greenworker.broker.redis.refusal import Refusal
from greenworker.broker.redis.restore import Restorer
from greenworker.broker.redis.routing import FANOUT, bind_call
from greenworker.broker.redis.scripts import SESSION_OVER
from greenworker.broker.redis.session import News, Session, Take
from greenworker.broker.redis.tenure import SessionOverError, Tenure, loss_of_session
from greenworker.broker.redis.upkeep import Upkeep
from greenworker.broker.source import SourceOptions
from greenworker.errors import BrokerError
from greenworker.green.base import LoopWaiter

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 2.0  # what Redis may take for each answer to a farewell
SHORT_STAY = 5.0  # seconds that a broken line is mended for where other brokers stand by

_Step = tuple[Command, Callable[[Any], None]]  # what to ask, and who takes the answer


class RedisSource:
    """The Source (broker/source.py) of a Redis server. Written by the loop alone but for the outbox."""

    asynchronous = True

    def __init__(
        self,
        url: str,
        connecting: ConnectionOptions,
        on_delivery: Callable[[Delivery], None],
        waiter: LoopWaiter,
        options: SourceOptions,
    ) -> None:
        """Connect, and begin a session. Raises BrokerError."""
        self.on_delivery = on_delivery
        self.closed = False
        self._waiter = waiter
        self._wake: Callable[[], None] = waiter.ring
        self._stay = min(options.lease_timeout, SHORT_STAY) if options.alternatives else options.lease_timeout
        self._outbox = Outbox()
        self._intake = Intake(strict_order=options.strict_order)
        self._refusal = Refusal()
        self._place: HubPlace | None = None  # on kombu's Hub, where there is one
        self._session = Session(options.lease_timeout, options.visibility_timeout)
        # Redis is not waited for longer than the lease lasts.
        self._line = Line(url, connecting, min(connecting.heartbeat or SILENCE_LIMIT, options.lease_timeout))
        self._restorer = Restorer(self._line, self._session)
        self._upkeep = Upkeep(self._line, self._session, self._restorer)
        self._keeper = Keeper(url, connecting, self._session)
        self._tenure = Tenure(self._line, self._session, self._restorer)
        self._tenure.begin(url)

    # --- called from anywhere -----------------------------------------------------------------------------------

    def settle(self, delivery: Delivery, settlement: Settlement) -> None:
        if not self.closed:
            self._outbox.put(str(delivery.tag), settlement)
            self._wake()

    def forget(self, delivery: Delivery) -> bool:
        """The publisher has replaced it in the very script that settled it: settled, with nothing left to write.

        Returns False if it was settled before.
        """
        if delivery.settled is not None:
            return False
        delivery.settled = Settlement.ACK
        if not self.closed:
            self._outbox.put(str(delivery.tag), None)
            self._wake()
        return True

    @property
    def held_key(self) -> str:
        """The key of what the session holds; for the publisher."""
        return self._session.held

    @property
    def unsettled(self) -> int:
        return len(self._intake)

    def wake(self) -> None:
        if not self.closed:
            self._wake()

    def set_prefetch(self, count: int) -> None:
        self._intake.prefetch = max(1, count)
        self.wake()

    # --- what the consumer's steps call -------------------------------------------------------------------------

    def start(self, queues: Sequence[QueueSpec], prefetch: int) -> None:
        self._intake.prefetch = max(1, prefetch)
        self._consume(queues)

    def add_queue(self, queue: QueueSpec) -> None:
        self._consume([queue])

    def cancel_queue(self, name: str) -> None:
        self._intake.remove(name)
        with self._telling_loss():
            self._line.watch(self._intake.names)

    def _consume(self, queues: Sequence[QueueSpec]) -> None:
        for queue in queues:
            if queue.exchange and queue.exchange_type == FANOUT:
                raise BrokerError(
                    f"queue {queue.name}: tasks cannot be consumed from a fanout exchange on Redis, where a message is "
                    "broadcast, and gone for whoever does not listen"
                )
            self._intake.add(queue)
        with self._telling_loss():
            self._bind()
            self._line.watch(self._intake.names)

    def _bind(self) -> None:
        """Bind all queues to their exchanges. A queue itself is there when it has messages."""
        for queue in self._intake.queues:
            call = bind_call(queue)
            if call is not None:
                self._line.ask(call)

    def stop(self) -> None:
        self._intake.stopped = True

    def close(self) -> None:
        self._intake.stopped = True
        if not self.closed:
            try:
                self._take_leave()
            except (*LINK_ERRORS, ResponseError, SessionOverError, ConnectionLostError) as exc:
                logger.warning("Messages not given back, their lease has to run out first: %s", exc)
        self._end()
        self._waiter.close()

    def _take_leave(self) -> None:
        self._line.reply_timeout = min(self._line.reply_timeout, CLOSE_TIMEOUT)
        if not self._line.up and not self._come_back():
            raise ConnectionError("the connection to Redis is broken")
        self._write_outbox()
        self.closed = True  # whoever settles now is too late
        self._tenure.leave(self._intake.unsettled)

    def _end(self) -> None:
        self.closed = True
        self._wake = _nobody_waits
        self._keeper.stop()
        self._line.close()
        self._outbox.clear()
        self._intake.clear()

    # --- the loop -----------------------------------------------------------------------------------------------

    def pump(self, timeout: float) -> None:
        with self._telling_loss():
            self._turn()
        if self._intake.hand_out(self.on_delivery, self) or self._busy:
            time.sleep(0)  # the slots get a turn before the next batch
            return
        with self._telling_loss():
            if self._line.wait(self._waiter, min(timeout, self._next_turn_in), hear=self._intake.has_room):
                self._intake.more = True

    def flush(self) -> None:
        with self._telling_loss():
            self._write_outbox()

    def register(self, hub: Any, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._keeper.start()  # the loop's thread may be a task's for long
        self._place = HubPlace(hub, self._line, self._on_readable)
        self._place.follow(hear=self._intake.has_room)

    def turn(self) -> None:
        assert self._place is not None
        with self._telling_loss():
            self._turn()
        self._intake.hand_out(self.on_delivery, self)
        self._place.follow(hear=self._intake.has_room)
        if self._busy:
            self._wake()
        elif not self._line.up:  # nothing rings when it is time to try again
            self._place.call_later(self._line.retry_in, self._wake)

    def unregister(self, hub: Any) -> None:
        place, self._place = self._place, None
        if place is not None:
            place.leave()
        self._wake = _nobody_waits if self.closed else self._waiter.ring
        self._keeper.stop()

    def _on_readable(self) -> None:
        with self._telling_loss():
            self._listen()

    def _listen(self) -> None:
        """Ask the bell whether it rang."""
        self._intake.more = self._line.rang() or self._intake.more

    @property
    def _busy(self) -> bool:
        """Whether the next turn has something to do at once."""
        if not self._line.up or self._refusal.retry_in:
            return False
        return bool(self._outbox) or (self._intake.more and self._intake.has_room)

    @property
    def _next_turn_in(self) -> float:
        """Seconds until there is something to do that nothing rings for."""
        if not self._line.up:
            return self._line.retry_in
        return self._refusal.retry_in or self._upkeep.due_in

    def _ready(self) -> bool:
        """Whether Redis can be asked now; where the line is broken and it is time, mend it first."""
        if self._refusal.retry_in:
            return False
        return self._line.up or self._come_back()

    def _turn(self) -> None:
        """Whatever there is to do, in one round trip but for what is rare."""
        if not self._ready():
            return
        settled = self._outbox.take()
        try:
            self._exchange(settled)
        except BaseException:
            self._outbox.put_back(settled, self._intake)
            raise

    def _exchange(self, settled: Settled) -> None:
        """Renew if it is due, settle, take."""
        self._give_back(settled.requeued)
        self._forget(settled.replaced)
        steps: list[_Step] = []
        news: list[News] = []
        due = not self._upkeep.due_in
        if due:
            self._listen()
            steps.append((self._session.renew(), lambda reply: news.append(News.of(reply))))
        steps += [(call, _nothing) for call in self._session.touch_if_due(self.unsettled)]
        if settled.acked:
            steps.append((self._session.ack(settled.acked), functools.partial(self._acked, settled.acked)))
        take = self._intake.plan(self._session, settled.acked, look=due)
        if take is not None:
            polled = due and not self._intake.more
            steps.append((take.call, functools.partial(self._took, take, polled=polled)))
        self._do(steps)
        if news:
            self._follow(news[0])

    def _do(self, steps: Sequence[_Step]) -> None:
        """All in one round trip. What is answered counts, even if Redis refuses the rest: then raises ResponseError."""
        if not steps:
            return
        replies = self._line.call(*(command for command, _ in steps))
        for (_, take_reply), reply in zip(steps, replies, strict=True):
            if not isinstance(reply, ResponseError):
                take_reply(reply)
        checked(replies)
        self._refusal.end()

    def _took(self, take: Take, reply: Any, *, polled: bool) -> None:
        result = take.read(reply)
        self._intake.took(take, result)
        if polled:
            self._line.polled(found=bool(result.taken))

    def _follow(self, news: News) -> None:
        if not news.alive:
            raise SessionOverError
        if self._upkeep.follow(news):
            self._intake.more = True

    # --- settling

    def _write_outbox(self) -> None:
        """Write all of it, and take nothing."""
        stopped, self._intake.stopped = self._intake.stopped, True
        try:
            while self._outbox and self._ready():
                self._turn()
        finally:
            self._intake.stopped = stopped

    def _give_back(self, tags: Sequence[str]) -> None:
        if tags:
            self._restorer.give_back(tags)
            self._forget(tags)
            self._intake.more = True  # our own writes do not ring our bell

    def _acked(self, tags: Sequence[str], there: int) -> None:
        stale = self._outbox.certain(tags) - there
        if stale > 0:
            logger.warning("%d messages were acked after their lease had run out: others may have run them too", stale)
        self._forget(tags)

    def _forget(self, tags: Sequence[str]) -> None:
        self._intake.settled(tags)
        self._outbox.answered(tags)

    # --- coming back, and giving up

    def _come_back(self) -> bool:
        """Mend the line, if it is time; True if that worked, and the session still stands."""
        if self._line.down_for > self._stay:
            raise ConnectionLostError(f"no connection to Redis for {self._line.down_for:.0f} s")
        return self._line.come_back(self._take_up)

    def _take_up(self) -> None:
        """Go on with the session on a new connection. Raises SessionOverError."""
        self._tenure.take_up(self._intake.unsettled)
        self._bind()
        self._intake.more = True

    @contextlib.contextmanager
    def _telling_loss(self) -> Iterator[None]:
        """A broken line is mended at the next turn, a refusal waited out; the end of the session is the loss."""
        if self.closed:
            raise ConnectionLostError("the connection to Redis is closed")
        try:
            yield
        except LINK_ERRORS:
            pass  # the line has logged it
        except ResponseError as exc:
            if code_of(exc) == SESSION_OVER:
                self._lose(exc)
            self._refused(exc)
        except SessionOverError as exc:
            self._lose(exc)
        except ConnectionLostError:
            self._end()
            raise

    def _lose(self, exc: Exception) -> NoReturn:
        self._end()
        raise loss_of_session() from exc

    def _refused(self, exc: ResponseError) -> None:
        """Redis does not do as it is told: say so once, and try again."""
        if isinstance(exc, ReadOnlyError):  # a failover: the master is another one by now
            self._line.broke(meaning_of(exc))
        else:
            self._refusal.begin(exc)


def _nobody_waits() -> None:
    """Wakes nobody: the source is closed."""


def _nothing(reply: Any) -> None:
    """Its reply tells nothing."""
