"""How a prefetch is shared out: between channels, and between the queues of one.

RabbitMQ looks for an acked delivery in a list of all that its channel has outstanding, from the oldest on. With tasks
that end out of order an ack cost the broker 15 us at 1,000 outstanding and 238 us at 10,000. So there are more channels
rather than more on one; a limit has 16 bits besides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from greenworker.broker.delivery import QueueSpec

MAX_WINDOW = 65_535  # basic.qos counts in 16 bits, and 0 would mean unlimited
CHEAP_SHARE = 2_000  # what one channel has outstanding, while there are channels enough
MANY_CHANNELS = 32  # more would cost more at every start than they save: a consumer for each queue on each of them


def split_prefetch(prefetch: int) -> list[int]:
    """Shares, one a channel, as even as can be: of at most 2,000 on up to 32 channels, and of at most 65,535 beyond."""
    channels = max(1, min(MANY_CHANNELS, math.ceil(prefetch / CHEAP_SHARE)), math.ceil(prefetch / MAX_WINDOW))
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
