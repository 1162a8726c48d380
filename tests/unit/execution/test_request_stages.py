"""A request's stages: every legal move does what the table says, every other one is an error that names both."""

from __future__ import annotations

import itertools

import pytest

from greenworker.execution.request import MOVES, IllegalStageError, Move, Stage
from tests.support.execution import make_request


@pytest.mark.parametrize(("stage", "move"), list(itertools.product(Stage, Move)))
def test_moves_follow_the_table(stage: Stage, move: Move) -> None:
    request = make_request()
    request.stage = stage
    if (stage, move) in MOVES:
        request.move(move)
        assert request.stage is MOVES[stage, move]
    else:
        with pytest.raises(IllegalStageError, match=f"cannot {move.value}: it is {stage.value}"):
            request.move(move)
        assert request.stage is stage


def test_settled_is_the_end() -> None:
    assert not [move for stage, move in MOVES if stage is Stage.SETTLED]


def test_own_limits_come_before_the_tasks() -> None:
    request = make_request(time_limit=3.0)
    request.task.time_limit, request.task.soft_time_limit = 10.0, 9.0
    assert (request.time_limit, request.soft_time_limit) == (3.0, 9.0)


def test_context_is_what_the_body_sees() -> None:
    request = make_request(task_id="abc", retries=2)
    context = request.context("node@host")
    assert (context.id, context.retries, context.hostname) == ("abc", 2, "node@host")
    assert context.delivery_info["routing_key"] == "celery"
    assert context.called_directly is False
