"""The tasks of both_ways_tasks as a greenworker app."""

import greenworker
from greenworker import App, SoftTimeLimitExceeded
from tests.support.both_ways_tasks import define

app = define(App("shop"), greenworker, SoftTimeLimitExceeded)
