"""The tasks of result_tasks as a greenworker app."""

from __future__ import annotations

from greenworker import App
from tests.support.result_tasks import define

app = define(App("results"))
