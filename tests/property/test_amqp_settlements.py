"""Settlements against a model of RabbitMQ's rules for one channel."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from greenworker.broker.amqp.settlements import Settlements
from greenworker.broker.delivery import Settlement

FRAME = struct.Struct(">BHIHHQBB")
CHANNEL = 7


class Broker:
    """What RabbitMQ does with basic.ack and basic.nack; a 406 closes the channel there, here it fails the test."""

    def __init__(self) -> None:
        self.unacked: dict[int, None] = {}
        self.acked: set[int] = set()
        self.requeued: set[int] = set()
        self.writes = 0

    def deliver(self, tag: int) -> None:
        self.unacked[tag] = None

    def receive(self, data: bytes) -> None:
        self.writes += 1
        for frame in FRAME.iter_unpack(data):
            kind, channel, size, class_id, method, tag, bits, end = frame
            assert (kind, channel, size, class_id, end) == (1, CHANNEL, 13, 60, 0xCE)
            assert method in (80, 120), f"method {method}"
            if method == 80:
                assert bits in (0, 1)
                self._settle(tag, multiple=bool(bits & 1), into=self.acked)
            else:
                assert bits & 2, "a nack without requeue throws the message away"
                self._settle(tag, multiple=bool(bits & 1), into=self.requeued)

    def _settle(self, tag: int, *, multiple: bool, into: set[int]) -> None:
        assert tag in self.unacked, f"406 PRECONDITION_FAILED - unknown delivery tag {tag}"
        tags = [unacked for unacked in self.unacked if unacked <= tag] if multiple else [tag]
        for settled in tags:
            del self.unacked[settled]
            into.add(settled)


class SettlementsMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.settlements = Settlements(CHANNEL)
        self.broker = Broker()
        self.last_tag = 0
        self.open: set[int] = set()  # delivered, not put
        self.wanted: dict[int, Settlement] = {}  # the first settlement of each

    @rule(count=st.integers(1, 8))
    def deliver(self, count: int) -> None:
        for _ in range(count):
            self.last_tag += 1
            self.broker.deliver(self.last_tag)
            self.settlements.delivered(self.last_tag)
            self.open.add(self.last_tag)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), settlement=st.sampled_from(Settlement))
    def settle_one(self, data: st.DataObject, settlement: Settlement) -> None:
        tag = data.draw(st.sampled_from(sorted(self.open)))
        self.open.discard(tag)
        self.wanted[tag] = settlement
        self.settlements.put(tag, settlement)

    @precondition(lambda self: self.open)
    @rule(settlement=st.sampled_from(Settlement))
    def settle_all_but_the_last(self, settlement: Settlement) -> None:
        for tag in sorted(self.open)[:-1]:
            self.open.discard(tag)
            self.wanted[tag] = settlement
            self.settlements.put(tag, settlement)

    @precondition(lambda self: self.wanted)
    @rule(data=st.data(), settlement=st.sampled_from(Settlement))
    def settle_again(self, data: st.DataObject, settlement: Settlement) -> None:
        self.settlements.put(data.draw(st.sampled_from(sorted(self.wanted))), settlement)

    @rule()
    def flush(self) -> None:
        data = self.settlements.frames()
        if data:
            self.broker.receive(data)
        assert set(self.broker.unacked) == self.open
        assert self.broker.acked == {tag for tag, how in self.wanted.items() if how is Settlement.ACK}
        assert self.broker.requeued == {tag for tag, how in self.wanted.items() if how is Settlement.REQUEUE}
        assert self.settlements.unsettled == len(self.open)
        assert self.settlements.frames() == b"", "a second flush has nothing to say"

    @invariant()
    def nothing_is_settled_unasked(self) -> None:
        if hasattr(self, "broker"):
            assert self.broker.acked | self.broker.requeued <= set(self.wanted)


TestSettlements = SettlementsMachine.TestCase


@given(st.integers(1, 2_000))
def test_a_finished_prefix_is_one_frame(count: int) -> None:
    settlements = Settlements(CHANNEL)
    for tag in range(1, count + 1):
        settlements.delivered(tag)
        settlements.put(tag, Settlement.ACK)
    assert len(settlements.frames()) == FRAME.size


def test_what_is_kept_is_bounded_by_what_is_unsettled() -> None:
    """One delivery that is never settled must not make every later one leave something behind."""
    settlements = Settlements(CHANNEL)
    settlements.delivered(1)
    for tag in range(2, 10_000):
        settlements.delivered(tag)
        settlements.put(tag, Settlement.ACK)
        settlements.frames()
    assert settlements.unsettled == 1
    assert sum(len(getattr(settlements, name)) for name in ("_unsettled", "_waiting")) == 1
    assert Settlements.__slots__ == ("_channel_id", "_unsettled", "_waiting")
