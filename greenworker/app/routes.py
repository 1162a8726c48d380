"""Routes: where a message goes that its sender sends nowhere in particular, and the priority it goes with.

What counts, the weightiest first: the options of the call, the App's router, ``[route PATTERN]``, the task's own
options, ``[task] default_queue``. (In Celery a task's own queue counts over the routes; here the operator's word counts
over the code's, as everywhere.) A retry is not routed again: it goes back to the queue that its message came from.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from greenworker.app.options import SendOptions, check_names
from greenworker.errors import AppError
from greenworker.settings.model import RouteSettings

# Called with a task's name, the args, the kwargs and the options of the call. Returns options as apply_async takes
# them, or the name of a queue; None where [route PATTERN] is to decide.
Router = Callable[[str, Sequence[Any], Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any] | str | None]

WAY = ("queue", "exchange", "routing_key")


def route(  # noqa: PLR0917 - a call, as send_task takes it, and what decides
    router: Router | None,
    sections: Mapping[str, RouteSettings],
    name: str,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> Mapping[str, Any]:
    """The options that the router and ``[route PATTERN]`` give to a call of the task ``name``.

    Raises AppError for a router that returns something else than options, and what the router itself raises.
    """
    section = find_section(sections, name) if sections else None
    routed = _said_by_section(section) if section is not None else {}
    if router is not None:
        routed = over(routed, _said_by_router(router, name, args, kwargs, options))
    return routed


def find_section(sections: Mapping[str, RouteSettings], name: str) -> RouteSettings | None:
    """The route of ``name``: a whole name counts before any pattern, and of patterns the one that spells out the most.

    Of equal patterns the first. So it does not matter in which of several files a route stands.
    """
    if name in sections:
        return sections[name]
    matching = [pattern for pattern in sections if fnmatch.fnmatchcase(name, pattern)]
    return sections[max(matching, key=_spelled_out)] if matching else None


def over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """``lower`` and over it ``upper``, which takes away all of its way, and not a part, if it names one itself."""
    if "queue" in upper or "exchange" in upper:
        lower = {key: value for key, value in lower.items() if key not in WAY}
    return {**lower, **upper}


def _spelled_out(pattern: str) -> int:
    return sum(character not in "*?" for character in pattern)


def _said_by_section(section: RouteSettings) -> dict[str, Any]:
    said = {"queue": section.queue, "priority": section.priority}
    return {key: value for key, value in said.items() if value is not None}


def _said_by_router(
    router: Router,
    name: str,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    answer = router(name, args or (), kwargs or {}, options)
    if answer is None:
        return {}
    if isinstance(answer, str):
        return {"queue": answer}
    where = f"router {getattr(router, '__qualname__', router)}, asked about task {name}"
    if not isinstance(answer, Mapping):
        raise AppError(f"{where}: expected a dict of options, the name of a queue or None; got {answer!r:.80}")
    check_names(where, answer, SendOptions.__annotations__)
    return {key: value for key, value in answer.items() if value is not None}
