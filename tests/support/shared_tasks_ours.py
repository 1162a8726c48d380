"""The tasks of shared_tasks as an App."""

from greenworker import App
from tests.support.shared_tasks import define

app = App("shared")
define(app, "greenworker")
