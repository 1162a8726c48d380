"""The delivery tags of one channel, settled together in one write.

Rules this file keeps:

* One ``multiple`` ack for the finished prefix, single ones for the rest: out of order, single acks cost the broker
  little up to about 1,000 outstanding.
* The multiple ack goes up to a tag that is acked in this very flush: up to one acked before would be a 406, which closes
  the channel.
* Requeues are written before the acks, so that a multiple ack never swallows a tag that goes back.
"""

from __future__ import annotations

import struct
from collections import deque

from greenworker.broker.delivery import Settlement

_ACK = struct.Struct(">BHIHHQBB")  # frame header, basic.ack (60, 80), tag, multiple, frame end
_NACK = struct.Struct(">BHIHHQBB")  # the same with basic.nack (60, 120), bits: 1 multiple, 2 requeue
_METHOD_BYTES = 13
_BASIC, _ACK_METHOD, _NACK_METHOD = 60, 80, 120
_REQUEUE = 2
_FRAME_END = 0xCE


class Settlements:
    """One channel's settlements, from the task's greenlet to the wire; dead with its channel.

    ``put`` is called from any greenlet or thread (a deque's append is atomic), everything else by the loop.
    """

    __slots__ = ("_channel_id", "_finished", "_lowest", "_waiting")

    def __init__(self, channel_id: int) -> None:
        self._channel_id = channel_id
        self._waiting: deque[tuple[int, Settlement]] = deque()
        self._finished: set[int] = set()  # settled tags above the lowest one that is not
        self._lowest = 1

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, tag: int, settlement: Settlement) -> None:
        """Settle ``tag`` at the next flush."""
        self._waiting.append((tag, settlement))

    def frames(self) -> tuple[bytes, int]:
        """The frames for all that waits, and how many deliveries they settle. Nothing waits afterwards."""
        acked, requeued = self._take()
        if not acked and not requeued:
            return b"", 0
        prefix = self._advance(acked, requeued)
        frames = [self._frame(_NACK, _NACK_METHOD, tag, _REQUEUE) for tag in requeued]
        covered = [tag for tag in acked if tag < prefix]
        if covered:
            frames.append(self._frame(_ACK, _ACK_METHOD, max(covered), 1))
        frames += [self._frame(_ACK, _ACK_METHOD, tag, 0) for tag in acked if tag >= prefix]
        return b"".join(frames), len(acked) + len(requeued)

    def _take(self) -> tuple[list[int], list[int]]:
        acked: list[int] = []
        requeued: list[int] = []
        for _ in range(len(self._waiting)):
            tag, settlement = self._waiting.popleft()
            (acked if settlement is Settlement.ACK else requeued).append(tag)
        return acked, requeued

    def _advance(self, acked: list[int], requeued: list[int]) -> int:
        """Move the lowest unsettled tag up; returns it."""
        finished = self._finished
        finished.update(acked, requeued)
        lowest = self._lowest
        while lowest in finished:
            finished.discard(lowest)
            lowest += 1
        self._lowest = lowest
        return lowest

    def _frame(self, layout: struct.Struct, method: int, tag: int, bits: int) -> bytes:
        return layout.pack(1, self._channel_id, _METHOD_BYTES, _BASIC, method, tag, bits, _FRAME_END)
