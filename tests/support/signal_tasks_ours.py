"""The tasks of signal_tasks as an App."""

from greenworker import App, errors, signals
from greenworker.app.context import current_context
from tests.support.signal_tasks import define, listen


def _current() -> str | None:
    context = current_context()
    return context.id if context is not None else None


app = App("signals")
define(app, errors)
listen(signals, _current)
