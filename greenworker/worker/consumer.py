"""Consumer: makes the consumer and what it works with, from the parts that the steps before it made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from greenworker.app.services import results_store
from greenworker.bootsteps import Step
from greenworker.broker.dead_letters import DeadLetters
from greenworker.broker.replacer import Replacer
from greenworker.consumer.consumer import Consumer as BrokerConsumer
from greenworker.consumer.consumer import WorkerParts
from greenworker.consumer.strategy import TaskServices
from greenworker.execution.admission import Admission
from greenworker.execution.bounded import Bounded
from greenworker.execution.coroutines import CoroutineRunner
from greenworker.execution.dispatch import Dispatcher
from greenworker.execution.executor import TaskExecutor
from greenworker.execution.links import ERRBACK_TIMEOUT, Links
from greenworker.execution.release import Releases, find_releases
from greenworker.execution.settlement import Settler
from greenworker.execution.task_log import TaskLog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greenworker.worker.controller import WorkController

STOP_TIMEOUT = 5.0


class Consumer(Step["WorkController"]):
    """Owns ``worker.consumer``, the replacer and the results writer. The controller runs the consumer."""

    name: ClassVar[str] = "consumer"
    requires: ClassVar[tuple[str, ...]] = ("timer", "queues", "pool")

    def create(self, parent: WorkController) -> None:
        app, clock, hostname = parent.app, parent.clock, parent.hostname
        self._replacer = Replacer(app.publisher)
        self._results = results_store(parent.settings, lambda: app.publisher, create=True)
        app.use_results(self._results)
        self._coroutines = CoroutineRunner(parent.library)
        app.run_coroutine = self._coroutines.run
        task_log = TaskLog(parent.task_log_level)
        dead_letters = DeadLetters(self._replacer, parent.queues, clock, hostname)
        errbacks = Bounded(parent.timer, ERRBACK_TIMEOUT, limits=parent.capabilities.limits)
        settler = Settler(
            app=app,
            results=self._results,
            replacer=self._replacer,
            links=Links(app, self._replacer, self._results, clock, errbacks),
            dead_letters=dead_letters,
            ledger=parent.ledger,
            clock=clock,
            task_log=task_log,
            hostname=hostname,
        )
        admission = Admission(clock)
        executor = TaskExecutor(hostname, parent.timer, clock, self._coroutines, limits=parent.capabilities.limits)
        releases = Releases(
            find_releases(parent.settings.worker.release), parent.timer, limits=parent.capabilities.limits
        )
        parent.dispatcher = Dispatcher(
            pool=parent.pool,
            admission=admission,
            executor=executor,
            settler=settler,
            ledger=parent.ledger,
            timer=parent.timer,
            clock=clock,
            call_soon=parent.call_soon,
            deferred_limit=parent.settings.worker.deferred_limit,
            can_park=app.publisher.can_park,
            releases=releases,
        )
        services = TaskServices(
            parent.ledger, admission, parent.dispatcher, dead_letters, task_log, clock, lambda: parent.consumer
        )
        parts = WorkerParts(
            app=app,
            settings=parent.settings,
            hostname=hostname,
            queues=parent.queues,
            pool=parent.pool,
            hub=parent.hub,
            make_waiter=parent.library.make_waiter,
            services=services,
            results=self._results,
        )
        parent.consumer = BrokerConsumer(parts, extra_steps=parent.consumer_steps, on_ready=parent.on_ready)

    def start(self, parent: WorkController) -> None:
        self._results.start()
        self._replacer.start()

    def close(self, parent: WorkController) -> None:
        parent.consumer.close()

    def stop(self, parent: WorkController) -> None:
        parent.consumer.stop()
        self._coroutines.stop()
        self._replacer.stop()
        self._results.stop()
        parent.app.close()

    def info(self, parent: WorkController) -> Mapping[str, Any]:
        return parent.consumer.blueprint.info(parent.consumer)
