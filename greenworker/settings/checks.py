"""Mistakes that show only when several settings are looked at together, or at the machine they are for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from greenworker.settings import table, urls
from greenworker.settings.model import QueueSettings, Settings
from greenworker.settings.sources import Given, Problem

Name = tuple[str, str]

_TLS_FILES = ("tls_ca", "tls_cert", "tls_key")
_LONGEST_QUEUE_NAME_BYTES = 250  # AMQP has 255, and ".dead" must fit in
_ARGUMENTS_WITH_A_KEY = {"x-queue-type": "type", "x-max-priority": "max_priority"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake: the settings it is about, the one at fault first, and the message."""

    names: tuple[Name, ...]
    text: str


def find_problems(settings: Settings, counting: Mapping[Name, Given], faulty: AbstractSet[Name]) -> list[Problem]:
    """Return a problem a finding, at the place of the first of its settings that was given.

    Findings about a setting whose value is ``faulty`` are left out: they would be about its default.
    """
    problems = []
    for finding in _findings(settings):
        places = [counting[name] for name in finding.names if name in counting]
        if places and faulty.isdisjoint(finding.names):
            problems.append(places[0].problem(finding.text))
    return problems


def _findings(settings: Settings) -> Iterator[Finding]:
    yield from _durations(settings)
    yield from _queues_left(settings)
    yield from _tls(settings)
    yield from _serializers(settings)
    for name, queue in settings.queues.items():
        yield from _queue(f"{table.QUEUE.name} {name}", name, queue)
    for pattern in settings.routes:
        yield from _route(pattern)


def _durations(settings: Settings) -> Iterator[Finding]:
    yield from _above(settings, ("task", "soft_time_limit"), ("task", "time_limit"))
    yield from _above(settings, ("broker", "reconnect_delay"), ("broker", "reconnect_delay_max"))


def _above(settings: Settings, lower: Name, upper: Name) -> Iterator[Finding]:
    low, high = (getattr(getattr(settings, section), key) for section, key in (lower, upper))
    if low is not None and high is not None and low > high:
        low_text, high_text = (
            table.ROW_BY_NAME[name].kind.format(value) for name, value in ((lower, low), (upper, high))
        )
        text = f"[{lower[0]}] {lower[1]} is {low_text}, above {upper[1]}, which is {high_text}; make it the lower one"
        yield Finding((lower, upper), text)


def _queues_left(settings: Settings) -> Iterator[Finding]:
    if not settings.worker.taken_queues:
        text = "[worker] exclude_queues leaves none of [worker] queues; expected one queue or more to take tasks from"
        yield Finding((("worker", "exclude_queues"), ("worker", "queues")), text)


def _tls(settings: Settings) -> Iterator[Finding]:
    broker = settings.broker
    if broker.tls_key and not broker.tls_cert:
        yield Finding(
            (("broker", "tls_key"), ("broker", "tls_cert")), "[broker] tls_key is set without tls_cert; set both"
        )
    for key in _TLS_FILES:
        path = getattr(broker, key)
        if path is None:
            continue
        if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a folder may not be entered
            yield Finding((("broker", key),), f"[broker] {key}: there is no file {path!r}")
        elif not os.access(path, os.R_OK):
            yield Finding((("broker", key),), f"[broker] {key}: this user may not read the file {path!r}")
        servers = (*broker.url, *([settings.results.url] if settings.results.url else ()))
        if broker.url and not any(urls.scheme_of(url) in urls.TLS_SCHEMES for url in servers):
            text = f"[broker] {key} is set, but no [broker] url is encrypted; expected a URL that starts with amqps://"
            yield Finding((("broker", key), ("broker", "url")), text)


def _serializers(settings: Settings) -> Iterator[Finding]:
    serializer, accepted = settings.task.serializer, settings.broker.accept
    if serializer not in accepted:
        text = f"[task] serializer is {serializer}, which [broker] accept ({', '.join(accepted)}) refuses; add it there"
        yield Finding((("task", "serializer"), ("broker", "accept")), text)


def _queue(section: str, name: str, queue: QueueSettings) -> Iterator[Finding]:
    def about(text: str, *keys: str) -> Finding:
        return Finding(tuple((section, key) for key in keys or _keys(table.QUEUE)), f"[{section}] {text}")

    if len(name.encode()) > _LONGEST_QUEUE_NAME_BYTES:
        yield about(f"the queue's name is longer than {_LONGEST_QUEUE_NAME_BYTES} bytes")
    if queue.type == "quorum" and queue.max_priority is not None:
        yield about(
            "max_priority: a quorum queue has none; leave it out, or set type = classic", "max_priority", "type"
        )
    if queue.type == "quorum" and not queue.durable:
        yield about(
            "durable = no: a quorum queue is always durable; leave it out, or set type = classic", "durable", "type"
        )
    if not queue.exchange and queue.routing_key not in ("", name):
        yield about(
            "routing_key: the default exchange knows the queue's name alone; set exchange too, or leave this out",
            "routing_key",
            "exchange",
        )
    for argument, key in _ARGUMENTS_WITH_A_KEY.items():
        if argument in queue.arguments:
            yield about(
                f"arguments: {argument} has a key of its own; set {key} = {queue.arguments[argument]}", "arguments"
            )


def _route(pattern: str) -> Iterator[Finding]:
    if any(character.isspace() for character in pattern):
        section = f"{table.ROUTE.name} {pattern}"
        names = tuple((section, key) for key in _keys(table.ROUTE))
        yield Finding(names, f"[{section}] expected one pattern of task names, such as shop.*; got blanks in it")


def _keys(section: table.Section) -> Iterator[str]:
    return (row.key for row in section.rows)
