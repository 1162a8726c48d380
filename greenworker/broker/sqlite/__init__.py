"""The embedded broker: queues in one SQLite file. Importing this registers ``sqlite:////path`` URLs with kombu."""

from __future__ import annotations

from kombu.transport import TRANSPORT_ALIASES

TRANSPORT_ALIASES["sqlite"] = "greenworker.broker.sqlite.transport:Transport"
