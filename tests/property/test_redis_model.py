"""Takes, settlements, replacements, deaths and broken lines on a real Redis against a model: where each message is."""

from __future__ import annotations

import json

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from greenworker.broker.delivery import Delivery
from greenworker.broker.publisher import Replacement
from greenworker.broker.redis.keys import SESSIONS
from greenworker.broker.redis.session import Wanted
from tests.support.amqp_scenes import number_of
from tests.support.redis_scenes import Consumer, Keys, open_publisher, outgoing
from tests.support.worker import wait_until

PREFETCH = 4
PRIORITIES = st.sampled_from([0, 3, 9])


class Machine(RuleBasedStateMachine):
    """Two consumers of one queue. ``waiting`` and ``held`` are the model: numbers of messages, and who has them."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.keys = Keys(url)
        self.publisher = open_publisher(url)
        self.consumers = [Consumer(url, prefetch=PREFETCH) for _ in range(2)]
        self.waiting: set[int] = set()
        self.held: list[dict[int, Delivery]] = [{}, {}]
        self.back: set[int] = set()  # went back to the queue at least once
        self.next_number = 0

    @rule(priorities=st.lists(PRIORITIES, min_size=1, max_size=6))
    def publish(self, priorities: list[int]) -> None:
        numbers = range(self.next_number, self.next_number + len(priorities))
        self.publisher.publish(
            [outgoing(number, priority=priority) for number, priority in zip(numbers, priorities, strict=True)]
        )
        self.waiting.update(numbers)
        self.next_number = numbers.stop

    @rule(who=st.integers(0, 1))
    def pump(self, who: int) -> None:
        consumer = self.consumers[who]
        consumer.source._intake.more = True  # as if the bell had rung: its message may be on its way still
        consumer.source.pump(0.0)
        for delivery in consumer.got:
            number = number_of(delivery)
            assert number in self.waiting, "it was waiting"
            assert delivery.redelivered == (number in self.back)
            self.waiting.remove(number)
            self.held[who][number] = delivery
        consumer.got.clear()

    def _settle(self, who: int, pick: int) -> tuple[int, Delivery] | None:
        """One of what a consumer holds; what it holds comes out of the model."""
        if not self.held[who]:
            return None
        number = sorted(self.held[who])[pick % len(self.held[who])]
        return number, self.held[who].pop(number)

    @rule(who=st.integers(0, 1), pick=st.integers(0, PREFETCH))
    def ack(self, who: int, pick: int) -> None:
        found = self._settle(who, pick)
        if found is not None:
            found[1].ack()
            self.consumers[who].source.flush()

    @rule(who=st.integers(0, 1), pick=st.integers(0, PREFETCH))
    def requeue(self, who: int, pick: int) -> None:
        found = self._settle(who, pick)
        if found is not None:
            found[1].requeue()
            self.consumers[who].source.flush()
            self.waiting.add(found[0])
            self.back.add(found[0])

    @rule(who=st.integers(0, 1), pick=st.integers(0, PREFETCH), priority=PRIORITIES)
    def replace(self, who: int, pick: int, priority: int) -> None:
        found = self._settle(who, pick)
        if found is not None:
            number, self.next_number = self.next_number, self.next_number + 1
            self.publisher.replace([Replacement(found[1], outgoing(number, priority=priority))])
            self.waiting.add(number)

    @rule(who=st.integers(0, 1))
    def die(self, who: int) -> None:
        """Killed, its lease run out, and swept by the other one; then what it replaces comes to nothing."""
        dead, other = self.consumers[who], self.consumers[1 - who]
        dead.die()
        self.keys.redis.zadd(SESSIONS, {dead.source._session.id: 0})
        while other.source._restorer.sweep():
            pass
        late = list(self.held[who].values())
        if late:
            self.publisher.replace([Replacement(late[0], outgoing(-1))])
            assert late[0].settled is None
        self._went_back(who)
        self.consumers[who] = Consumer(self.url, prefetch=PREFETCH)

    @rule(who=st.integers(0, 1))
    def close(self, who: int) -> None:
        self.consumers[who].close()
        self._went_back(who)
        self.consumers[who] = Consumer(self.url, prefetch=PREFETCH)

    @rule(who=st.integers(0, 1), ack=st.booleans())
    def break_in_mid_turn(self, who: int, ack: bool) -> None:
        """A take, and maybe an ack, are done by Redis, and their replies never come."""
        source = self.consumers[who].source
        wanted = source._session.take([Wanted("q", 2)], 2, strict=False)
        rows = source._line.call(wanted.call)[0][0]
        lost = {int(json.loads(raw)["headers"]["id"]) for raw in rows[1::2]}
        if ack and self.held[who]:
            number, delivery = next(iter(self.held[who].items()))
            source._line.call(source._session.ack([str(delivery.tag)]))
            delivery.ack()  # in the outbox: sent again when the line is mended
            del self.held[who][number]
        source._line.broke("broken by the test")
        wait_until(source._ready, what="the line is mended")
        source.flush()
        self.back |= lost
        assert lost <= self.waiting

    def _went_back(self, who: int) -> None:
        self.waiting |= self.held[who].keys()
        self.back |= self.held[who].keys()
        self.held[who].clear()

    @invariant()
    def each_message_is_in_one_place(self) -> None:
        assert self.keys.unacked == len(self.held[0]) + len(self.held[1])
        assert self.keys.waiting() == len(self.waiting)

    def teardown(self) -> None:
        for who, consumer in enumerate(self.consumers):
            consumer.close()
            self._went_back(who)
        last = Consumer(self.url, prefetch=10_000)
        last.pump_until(lambda: len(last.got) >= len(self.waiting))
        assert sorted(last.numbers) == sorted(self.waiting)
        by_priority = [
            (delivery.envelope.properties["priority"], number_of(delivery))
            for delivery in last.got
            if number_of(delivery) not in self.back
        ]
        assert by_priority == sorted(by_priority), "what never went back is in the order of publishing"
        last.ack_all()
        last.close()
        self.publisher.close()
        assert self.keys.left() <= {SESSIONS}
        self.keys.redis.flushdb()
        self.keys.redis.close()


def test_each_message_is_in_one_place(redis_url: str) -> None:
    run_state_machine_as_test(
        lambda: Machine(redis_url), settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
    )


@pytest.mark.full
@pytest.mark.timeout(300)
def test_each_message_is_in_one_place_at_length(redis_url: str) -> None:
    run_state_machine_as_test(
        lambda: Machine(redis_url), settings=settings(max_examples=80, stateful_step_count=50, deadline=None)
    )
