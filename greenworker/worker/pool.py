"""Pool: makes the pool that the settings name, and keeps it.

The pools: ``pool_slots`` (gevent, eventlet), ``pool_threads``, ``pool_solo``; what they promise: ``execution/pool``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from greenworker.bootsteps import Step
from greenworker.errors import StopTask
from greenworker.execution.pool import CAPABILITIES
from greenworker.execution.pool import Pool as PoolProtocol
from greenworker.green.base import Library
from greenworker.worker.pool_slots import SlotPool
from greenworker.worker.pool_solo import SoloPool
from greenworker.worker.pool_threads import ThreadPool

if TYPE_CHECKING:
    from greenworker.worker.controller import WorkController


def make_pool(name: str, library: Library, size: int, *, reuse: bool = True, wake: Callable[[], None]) -> PoolProtocol:
    """The pool called ``name`` (gevent, eventlet, threads, solo) with ``size`` slots, in the calling thread's hub.

    ``reuse``: run many jobs in one greenlet; without it each gets a fresh one, for code that leans on
    ``threading.local``. ``wake`` makes the loop call ``run_waiting`` soon; only solo has a use for it.
    """
    capabilities = CAPABILITIES[name]
    if name == "solo":
        return SoloPool(capabilities, wake)
    kind = SlotPool if capabilities.green else ThreadPool
    return kind(library.make_runner(), size, capabilities, reuse=reuse)


class Pool(Step["WorkController"]):
    """Owns ``worker.pool``."""

    name: ClassVar[str] = "pool"
    requires: ClassVar[tuple[str, ...]] = ("queues",)

    def create(self, parent: WorkController) -> None:
        worker = parent.settings.worker
        parent.library.install_context_inheritance()
        parent.library.note_timeouts()
        parent.pool = make_pool(
            worker.pool, parent.library, worker.concurrency, reuse=worker.reuse_greenlets, wake=parent.wake
        )

    def start(self, parent: WorkController) -> None:
        parent.pool.start()

    def close(self, parent: WorkController) -> None:
        parent.pool.close()

    def stop(self, parent: WorkController) -> None:
        parent.pool.stop()

    def terminate(self, parent: WorkController) -> None:
        parent.pool.close()
        parent.pool.terminate(StopTask())

    def info(self, parent: WorkController) -> Mapping[str, Any]:
        pool = parent.pool
        return {"size": pool.size, "busy": pool.busy, "waiting": pool.waiting}
