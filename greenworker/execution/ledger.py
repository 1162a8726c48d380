"""What this worker has in its hands, and what it has finished without a proof that the broker heard of it.

An ack is written and forgotten: no broker answers it. When the connection breaks, the acks that were on their way, or
came while there was none, are lost, and the broker delivers finished work again. So the ledger remembers what finished
lately; when a connection is lost, a redelivery of that is acked and not run. What finished long before the loss is
taken for heard: brokers and we notice a dead connection within two heartbeats.

Written by the loop (add, adopt) and by whoever settles a request (remove); read by remote control, shutdown and
prefetch. Single dict and set operations, so that native threads need no lock.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque

from greenworker.broker.delivery import Delivery
from greenworker.execution.request import Request, Stage

UNPROVEN_AGE = 120.0  # seconds; what finished longer before the loss of its connection is taken for acked


class Ledger:
    """The requests in hand, by what they are and how far they are.

    ``unproven_limit`` bounds what is remembered of the finished ones: the prefetch, since that is how many deliveries
    the broker can have unacked.
    """

    def __init__(self, unproven_limit: int = 10_000) -> None:
        self._unproven: deque[tuple[float, tuple[str, int]]] = deque(maxlen=unproven_limit)  # over this connection
        self._unheard: OrderedDict[tuple[str, int], None] = OrderedDict()  # over lost connections, the oldest first
        self._lock = threading.Lock()  # for _unheard, where it is searched and changed in one go
        self._requests: set[Request] = set()
        self._by_identity: dict[tuple[str, int], Request] = {}
        self._drained: threading.Event | None = None  # set by remove(), while wait_empty() waits

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        """A request was made of a delivery."""
        self._requests.add(request)
        self._by_identity[request.identity] = request
        if self._unheard:
            self._unheard.pop(request.identity, None)  # sent once more under the same id: that is new work

    def remove(self, request: Request) -> None:
        """Its delivery is settled, or was given up. Harmless twice."""
        self._requests.discard(request)
        if self._by_identity.get(request.identity) is request:
            self._by_identity.pop(request.identity, None)
        drained = self._drained
        if drained is not None and not self._requests:
            drained.set()

    def finish(self, request: Request, now: float) -> None:
        """It has run, and its delivery was acked, at ``now`` on the monotonic clock: remember it, and remove it."""
        if request.delivery.source.closed:
            self._expect_again(request.identity)
        else:
            self._unproven.append((now, request.identity))
        self.remove(request)

    def connection_lost(self, now: float) -> None:
        """From now on, redeliveries of what finished lately are expected."""
        while self._unproven:
            finished_at, identity = self._unproven.popleft()
            if now - finished_at <= UNPROVEN_AGE:
                self._expect_again(identity)

    def was_finished(self, identity: tuple[str, int]) -> bool:
        """Whether a redelivery is one of finished work, whose ack was lost. It has to be acked again, and not run."""
        return identity in self._unheard

    def _expect_again(self, identity: tuple[str, int]) -> None:
        with self._lock:
            self._unheard[identity] = None
            while len(self._unheard) > (self._unproven.maxlen or 0):
                self._unheard.popitem(last=False)

    def adopt(self, identity: tuple[str, int], delivery: Delivery) -> Request | None:
        """Attach a redelivery of work that is in hand to its request, whose outcome settles it. None if there is none.

        The older delivery came over a connection that is gone, so the newest tag is the one that counts. One that was
        acked when it started stays acked; the redelivery shows that its ack was lost, so it is acked at once.
        """
        request = self._by_identity.get(identity)
        if request is None:
            return None
        settled = request.delivery.settled
        request.delivery = delivery
        if settled is not None:
            delivery.settle(settled)
        return request

    def at(self, *stages: Stage) -> list[Request]:
        """The requests at any of ``stages``."""
        return [request for request in list(self._requests) if request.stage in stages]

    def wait_empty(self, timeout: float) -> bool:
        """Wait until nothing is in hand; False after ``timeout`` seconds. One caller at a time."""
        self._drained = threading.Event()
        try:
            return not self._requests or self._drained.wait(timeout)
        finally:
            self._drained = None
