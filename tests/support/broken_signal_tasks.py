"""An App all of whose signals have receivers that raise, exit, or both."""

from typing import Any

from greenworker import App, signals

app = App("broken")


@app.task(name="broken.add", bind=True, max_retries=1, default_retry_delay=0)
def add(self: Any, x: int, y: int) -> int:
    if not self.request.retries:
        raise self.retry()
    inner.delay()
    return x + y


@app.task(name="broken.inner")
def inner() -> None: ...


def raises(**kwargs: Any) -> None:
    raise ValueError(f"receiver of {kwargs['signal'].name}")


def leaves(**kwargs: Any) -> None:
    raise SystemExit(f"receiver of {kwargs['signal'].name}")


for name in signals.__all__:
    if name != "Signal":
        getattr(signals, name).connect(raises)
        if name.startswith("task_"):
            getattr(signals, name).connect(leaves)
