"""Tasks that are linked, the same for a greenworker App and for a Celery app: each notes what it got and under whom."""

from __future__ import annotations

from typing import Any

from tests.support.journal import note


def define(app: Any) -> Any:
    """Give ``app``, of either kind, the tasks."""

    @app.task(name="links.add", bind=True)  # type: ignore[untyped-decorator]
    def add(self: Any, *numbers: int) -> int:
        told(self.request, args=list(numbers))
        return sum(numbers)

    @app.task(name="links.quiet", bind=True, ignore_result=True)  # type: ignore[untyped-decorator]
    def quiet(self: Any, *numbers: int) -> int:
        told(self.request, args=list(numbers))
        return sum(numbers)

    @app.task(name="links.fail", bind=True)  # type: ignore[untyped-decorator]
    def fail(self: Any, text: str) -> None:
        told(self.request, args=[text])
        raise LookupError(text)

    @app.task(name="links.flaky", bind=True, max_retries=5)  # type: ignore[untyped-decorator]
    def flaky(self: Any, failures: int) -> int:
        request = self.request  # not its parent: Celery makes a retry a child of the try before it, under the same id
        note(name=request.task, me=request.id, root=request.root_id, args=[failures], tries=request.retries)
        if self.request.retries < failures:
            # Not at once: a Celery worker looks at the stored state, then stores RETRY; another thread of it that has
            # ended the retried run in between would find its SUCCESS overwritten.
            raise self.retry(exc=LookupError("again"), countdown=0.2)
        return int(self.request.retries)

    @app.task(name="links.new_errback")  # type: ignore[untyped-decorator]
    def new_errback(request: Any, exc: BaseException, traceback: Any, *more: int) -> None:
        trace = "LookupError" in str(traceback)
        note(name="links.new_errback", of=request.id, exc=repr(exc), traceback=trace, more=list(more))

    @app.task(name="links.old_errback", bind=True)  # type: ignore[untyped-decorator]
    def old_errback(self: Any, task_id: str, *more: int) -> None:
        told(self.request, of=task_id, more=list(more))

    return app


def told(request: Any, **what: Any) -> None:
    """A line about this run, with the names that both kinds of context have."""
    note(name=request.task, me=request.id, parent=request.parent_id, root=request.root_id, **what)
