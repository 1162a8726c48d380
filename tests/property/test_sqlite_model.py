"""The embedded broker against a model: in whatever order, no message is lost or in two hands at once."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from greenworker.broker.delivery import Delivery
from greenworker.broker.publisher import Replacement
from greenworker.broker.sqlite.publisher import SqlitePublisher
from greenworker.broker.sqlite.sessions import release_dead_sessions
from greenworker.broker.sqlite.store import QueueStore, StoreOptions
from tests.support.queue_file import Consumer, outgoing

CONSUMERS = 3
whose = st.integers(0, CONSUMERS - 1)


class EmbeddedBroker(RuleBasedStateMachine):
    """The model: a message is waiting, or in exactly one consumer's hands, or done."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "queue.db"
        self.consumers = [Consumer(self.path, prefetch=5) for _ in range(CONSUMERS)]
        self.publisher = SqlitePublisher(self.path)
        self.store = QueueStore(self.path, StoreOptions())
        self.next_body = 0
        self.waiting: dict[str, int] = {}  # body -> priority
        self.hands: list[dict[str, Delivery]] = [{} for _ in range(CONSUMERS)]
        self.stale: list[tuple[Consumer, Delivery]] = []
        self.seen: set[str] = set()

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        for consumer in self.consumers:
            consumer.close()
        self.publisher.close()
        self.store.close()
        shutil.rmtree(self.folder)

    def new(self, priority: int) -> str:
        body = str(self.next_body)
        self.next_body += 1
        self.waiting[body] = priority
        return body

    @rule(priorities=st.lists(st.integers(0, 3), min_size=1, max_size=8))
    def publish(self, priorities: list[int]) -> None:
        self.publisher.publish([outgoing(self.new(priority), priority=priority) for priority in priorities])

    @rule(who=whose)
    def pump(self, who: int) -> None:
        consumer = self.consumers[who]
        consumer.source.pump(0.0)
        room = 5 - len(self.hands[who])
        best = sorted(self.waiting, key=lambda body: (-self.waiting[body], int(body)))[: max(0, room)]
        assert consumer.bodies() == best
        for delivery in consumer.got:
            body = str(delivery.envelope.body)
            assert delivery.redelivered == (body in self.seen)
            self.seen.add(body)
            del self.waiting[body]
            self.hands[who][body] = delivery
            self.priorities[body] = int(delivery.envelope.properties["priority"])
        consumer.got.clear()

    @property
    def priorities(self) -> dict[str, int]:
        return self.__dict__.setdefault("_priorities", {})

    def pick(self, who: int, index: int) -> str | None:
        bodies = sorted(self.hands[who], key=int)
        return bodies[index % len(bodies)] if bodies else None

    @rule(who=whose, index=st.integers(0, 9))
    def ack(self, who: int, index: int) -> None:
        body = self.pick(who, index)
        if body is not None:
            assert self.hands[who].pop(body).ack()
            self.consumers[who].source.flush()

    @rule(who=whose, index=st.integers(0, 9))
    def requeue(self, who: int, index: int) -> None:
        body = self.pick(who, index)
        if body is not None:
            assert self.hands[who].pop(body).requeue()
            self.consumers[who].source.flush()
            self.waiting[body] = self.priorities[body]

    @rule(who=whose, index=st.integers(0, 9), priority=st.integers(0, 3))
    def replace(self, who: int, index: int, priority: int) -> None:
        body = self.pick(who, index)
        if body is not None:
            message = outgoing(self.new(priority), priority=priority)
            self.publisher.replace([Replacement(self.hands[who].pop(body), message)])
            self.consumers[who].source.flush()

    @rule(who=whose)
    def lose_the_lease(self, who: int) -> None:
        """As after a stop of the whole process: others are given what it had, and it goes on under a new session."""
        source = self.consumers[who].source
        with self.store.transaction() as tx:
            tx.execute("UPDATE sessions SET lease_until = 0 WHERE id = ?", (source._upkeep.session.id,))
            release_dead_sessions(tx)
            release_dead_sessions(tx)
        source._upkeep.session.renew_at = 0.0
        for body, delivery in self.hands[who].items():
            self.waiting[body] = self.priorities[body]
            self.stale.append((self.consumers[who], delivery))
        self.hands[who].clear()
        source.flush()
        source._out.clear()  # the model counts what it lost as settled
        source._tags.clear()

    @precondition(lambda self: self.stale)
    @rule(index=st.integers(0, 50))
    def settle_late(self, index: int) -> None:
        """A late requeue must not take a message out of another's hands."""
        consumer, delivery = self.stale.pop(index % len(self.stale))
        out = consumer.source._out.copy()
        delivery.requeue()
        consumer.source.flush()
        consumer.source._out = out

    @rule(who=whose)
    def restart(self, who: int) -> None:
        self.consumers[who].close()
        self.stale = [(consumer, delivery) for consumer, delivery in self.stale if consumer is not self.consumers[who]]
        for body in self.hands[who]:
            self.waiting[body] = self.priorities[body]
        self.hands[who].clear()
        self.consumers[who] = Consumer(self.path, prefetch=5)

    @invariant()
    def file_and_model_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        rows = self.store.read("SELECT c.body, m.owner FROM messages m JOIN contents c ON c.id = m.id")
        assert {body for body, owner in rows if owner is None} == set(self.waiting)
        sessions = [consumer.source._upkeep.session.id for consumer in self.consumers]
        for session, held in zip(sessions, self.hands, strict=True):
            assert {body for body, owner in rows if owner == session} == set(held)
        assert len(rows) == len(self.waiting) + sum(map(len, self.hands))
        assert self.store.read("SELECT count(*) FROM contents") == [(len(rows),)]


EmbeddedBroker.TestCase.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
TestEmbeddedBroker = EmbeddedBroker.TestCase
