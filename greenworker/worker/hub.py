"""Hub: kombu's event loop, only where the pool is not green and the broker's transport is asynchronous."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from greenworker.bootsteps import Step
from greenworker.broker.connection import is_amqp, is_redis

if TYPE_CHECKING:
    from greenworker.worker.controller import WorkController


def why_no_hub(pool_is_green: bool, broker_url: str) -> str | None:
    """Why there is no hub, in a few words; None where there is one."""
    if pool_is_green:
        return "the pool is green"
    if not (is_amqp(broker_url) or is_redis(broker_url)):
        return "the broker's transport is not asynchronous"
    return None


class Hub(Step["WorkController"]):
    """Owns ``worker.hub``; the consumer's Evloop runs it."""

    name: ClassVar[str] = "hub"
    requires: ClassVar[tuple[str, ...]] = ("timer",)

    def include_if(self, parent: WorkController) -> bool:
        return why_no_hub(parent.capabilities.green, parent.settings.broker.url[0]) is None

    def create(self, parent: WorkController) -> None:
        from kombu.asynchronous import Hub as KombuHub

        parent.hub = KombuHub()  # type: ignore[no-untyped-call]
        parent.hub.close()  # its descriptor comes with start

    def start(self, parent: WorkController) -> None:
        from kombu.asynchronous import set_event_loop

        parent.hub.reset()
        set_event_loop(parent.hub)

    def stop(self, parent: WorkController) -> None:
        from kombu.asynchronous import set_event_loop

        parent.hub.close()
        set_event_loop(None)
