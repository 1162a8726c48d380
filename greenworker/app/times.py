"""Points in time as senders give them: seconds from now, datetimes, ISO 8601 text -> aware UTC datetimes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def aware(moment: datetime) -> datetime:
    """The same moment in UTC. A naive one counts as UTC, as in Celery, whatever the machine's own time zone is."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def due(when: datetime | float | str | None, now: datetime) -> datetime | None:
    """``when`` as an aware UTC datetime: a number is seconds after ``now``, text is ISO 8601, None stays None.

    Raises ValueError for text that is no date and for a number that leads out of the calendar.
    """
    if when is None:
        return None
    if isinstance(when, datetime):
        return aware(when)
    if isinstance(when, str):
        try:
            return aware(datetime.fromisoformat(when))
        except ValueError:
            raise ValueError(f"expected an ISO 8601 date and time, got {when!r}") from None
    try:
        return now + timedelta(seconds=when)
    except (OverflowError, ValueError):
        raise ValueError(f"expected seconds from now, got {when!r}: out of range") from None
