"""The publisher that tells: before_task_publish and after_task_publish, around whichever publisher does the work.

Everything that publishes task messages goes through it: calls, bulk, retries, links. Messages that are moved and not
sent (dead letters, tasks parked until their ETA) pass by untold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from greenworker.broker.publisher import Outgoing, Publisher, Replacement
from greenworker.errors import PublishError
from greenworker.protocol.call import decode_call, with_call
from greenworker.protocol.dead_letter import REASON_HEADER
from greenworker.protocol.message import Envelope
from greenworker.signals import after_task_publish, before_task_publish


class ToldPublisher:
    """Implements broker/publisher.Publisher. One truth test each way where nobody listens."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self.can_park = publisher.can_park

    @property
    def blocked(self) -> str | None:
        return self._publisher.blocked

    def publish(self, messages: Sequence[Outgoing], timeout: float | None = None) -> None:
        if not (before_task_publish.receivers or after_task_publish.receivers):
            self._publisher.publish(messages, timeout)
            return
        sent = [_before(outgoing) for outgoing in messages]
        try:
            self._publisher.publish(sent, timeout)
        except PublishError as exc:
            exc.unpublished = _originals(exc.unpublished, zip(sent, messages, strict=True))
            raise
        for outgoing in sent:
            _after(outgoing)

    def replace(self, replacements: Sequence[Replacement], timeout: float | None = None) -> None:
        if not (before_task_publish.receivers or after_task_publish.receivers):
            self._publisher.replace(replacements, timeout)
            return
        parked = [each.outgoing.envelope is each.delivery.envelope for each in replacements]
        given = [each.outgoing for each in replacements]
        sent = [each if moved else _before(each) for each, moved in zip(given, parked, strict=True)]
        told = [replace(each, outgoing=outgoing) for each, outgoing in zip(replacements, sent, strict=True)]
        try:
            self._publisher.replace(told, timeout)
        except PublishError as exc:
            exc.unpublished = _originals(exc.unpublished, zip(sent, given, strict=True))
            raise
        for outgoing, moved in zip(sent, parked, strict=True):
            if not moved:
                _after(outgoing)

    def close(self) -> None:
        self._publisher.close()


def _before(outgoing: Outgoing) -> Outgoing:
    """``outgoing`` with what receivers changed in its headers, properties, args and kwargs."""
    envelope = outgoing.envelope
    if not before_task_publish.receivers or not _is_a_task(envelope.headers):
        return outgoing
    headers, properties = dict(envelope.headers), dict(envelope.properties)
    body = decode_call(envelope)
    before_task_publish.send(
        headers["task"],
        body=body,
        headers=headers,
        properties=properties,
        declare=[outgoing.queue] if outgoing.queue is not None else [],
        retry_policy={},
        **_way(outgoing),
    )
    changed = Envelope(envelope.body, envelope.content_type, envelope.content_encoding, headers, properties)
    return replace(outgoing, envelope=changed if body == decode_call(envelope) else with_call(changed, body))


def _after(outgoing: Outgoing) -> None:
    headers = outgoing.envelope.headers
    if after_task_publish.receivers and _is_a_task(headers):
        body = decode_call(outgoing.envelope)
        after_task_publish.send(headers["task"], body=body, headers=dict(headers), **_way(outgoing))


def _way(outgoing: Outgoing) -> dict[str, Any]:
    return {"exchange": outgoing.exchange, "routing_key": outgoing.routing_key}


def _is_a_task(headers: Mapping[str, Any]) -> bool:
    return "task" in headers and REASON_HEADER not in headers


def _originals(
    unpublished: Sequence[Outgoing] | None, pairs: Iterable[tuple[Outgoing, Outgoing]]
) -> Sequence[Outgoing] | None:
    """The messages that were handed in, for those that were not published: callers know their own."""
    if unpublished is None:
        return None
    missing = {id(outgoing) for outgoing in unpublished}
    return [original for sent, original in pairs if id(sent) in missing]
