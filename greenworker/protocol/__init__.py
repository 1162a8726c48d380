"""Celery's wire formats: bytes and dicts in, dataclasses out, and back. Pure: no I/O, no clock, no green thread."""

from __future__ import annotations
