"""How a prefetch is shared out: between channels, since one counts in 16 bits, and between the queues of one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from greenworker.broker.delivery import QueueSpec

MAX_WINDOW = 65_535  # basic.qos counts in 16 bits, and 0 would mean unlimited


def split_prefetch(prefetch: int) -> list[int]:
    """Shares of at most 65,535, one a channel, as even as can be."""
    channels = max(1, math.ceil(prefetch / MAX_WINDOW))
    share, rest = divmod(prefetch, channels)
    return [share + (number < rest) for number in range(channels)]


def split_windows(prefetch: int, queues: Sequence[QueueSpec], *, strict: bool) -> dict[str, int]:
    """Each queue's own window: it may have everything that is handed out, and next to that its share must wait here.

    In strict order a queue's share is all there is.
    """
    if len(queues) == 1:
        return {queues[0].name: prefetch}
    total = sum(queue.weight for queue in queues)
    shares = {queue.name: prefetch if strict else math.ceil(prefetch * queue.weight / total) for queue in queues}
    return {name: min(MAX_WINDOW, prefetch + share) for name, share in shares.items()}
