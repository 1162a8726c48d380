"""The tasks of link_tasks as a greenworker app."""

from greenworker import App
from tests.support.link_tasks import define

app = define(App("links"))
