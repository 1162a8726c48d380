"""The delivery tags of one channel, settled together in one write.

Rules this file keeps:

* One ``multiple`` ack for the finished prefix, single ones for the rest: out of order, single acks cost the broker
  little up to about 1,000 outstanding.
* The multiple ack goes up to a tag that is acked in this very flush: up to one acked before would be a 406, which
  closes the channel.
* Requeues are written before the acks, so that a multiple ack never swallows a tag that goes back.
* What is kept is the unsettled tags, which the prefetch bounds. To keep the settled ones above the lowest unsettled tag
  would grow for as long as one task runs.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque

from greenworker.broker.delivery import Settlement

_METHOD_FRAME = struct.Struct(">BHIHHQBB")  # frame header, class and method, delivery tag, bits, frame end
_METHOD_BYTES = 13
_BASIC, _ACK_METHOD, _NACK_METHOD = 60, 80, 120
_SINGLE, _MULTIPLE, _REQUEUE = 0, 1, 2  # the bits: multiple is 1 in both methods, requeue is 2 in basic.nack
_FRAME_END = 0xCE
_NO_TAG = 1 << 64  # above every delivery tag


class Settlements:
    """One channel's settlements, from the task's greenlet to the wire; dead with its channel.

    ``put`` is called from any greenlet or thread (a deque's append is atomic), everything else by the loop.
    """

    __slots__ = ("_channel_id", "_unsettled", "_waiting")

    def __init__(self, channel_id: int) -> None:
        self._channel_id = channel_id
        self._waiting: deque[tuple[int, Settlement]] = deque()
        self._unsettled: OrderedDict[int, None] = OrderedDict()  # in the order of delivery: the first is the lowest

    @property
    def unsettled(self) -> int:
        """How many deliveries have no settlement on the wire yet."""
        return len(self._unsettled)

    def delivered(self, tag: int) -> None:
        """The broker handed over ``tag``; tags come in rising order."""
        self._unsettled[tag] = None

    def put(self, tag: int, settlement: Settlement) -> None:
        """Settle ``tag`` at the next flush. Only the first settlement of a tag counts."""
        self._waiting.append((tag, settlement))

    def frames(self) -> bytes:
        """The frames for all that waits; nothing waits afterwards."""
        if not self._waiting:
            return b""
        acked, requeued = self._take()
        lowest = next(iter(self._unsettled), _NO_TAG)
        frames = [self._frame(_NACK_METHOD, tag, _REQUEUE) for tag in requeued]
        prefix = [tag for tag in acked if tag < lowest]
        if prefix:
            frames.append(self._frame(_ACK_METHOD, max(prefix), _MULTIPLE))
        frames += [self._frame(_ACK_METHOD, tag, _SINGLE) for tag in acked if tag > lowest]
        return b"".join(frames)

    def _take(self) -> tuple[list[int], list[int]]:
        """Tags to ack and to requeue, each of them unsettled until now."""
        acked: list[int] = []
        requeued: list[int] = []
        unsettled, waiting = self._unsettled, self._waiting
        for _ in range(len(waiting)):
            tag, settlement = waiting.popleft()
            try:
                del unsettled[tag]
            except KeyError:
                continue  # settled twice by two native threads at the same moment: the first one counts
            (acked if settlement is Settlement.ACK else requeued).append(tag)
        return acked, requeued

    def _frame(self, method: int, tag: int, bits: int) -> bytes:
        return _METHOD_FRAME.pack(1, self._channel_id, _METHOD_BYTES, _BASIC, method, tag, bits, _FRAME_END)
