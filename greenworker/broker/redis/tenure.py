"""A session's life on a line: it is begun, taken up again on the line that replaces a broken one, and left."""

from __future__ import annotations

from collections.abc import Iterable

from redis.exceptions import ResponseError

from greenworker.broker.connection import ConnectionLostError
from greenworker.broker.redis.line import Line
from greenworker.broker.redis.link import LINK_ERRORS, meaning_of
from greenworker.broker.redis.restore import Restorer
from greenworker.broker.redis.session import News, Session
from greenworker.errors import BrokerError
from greenworker.settings.secrets import mask_url


class SessionOverError(Exception):
    """Redis does not know the session."""


def loss_of_session() -> ConnectionLostError:
    """What the consumer is told then."""
    return ConnectionLostError(
        "Redis has no session of this consumer any more: the process, or Redis, stood still for longer than "
        "[broker] lease_timeout, or Redis lost its data. What is not finished may run a second time"
    )


class Tenure:
    """Used by the loop alone. But for ``begin`` all raises LINK_ERRORS and ResponseError."""

    def __init__(self, line: Line, session: Session, restorer: Restorer) -> None:
        self._line = line
        self._session = session
        self._restorer = restorer

    def begin(self, url: str) -> None:
        """Begin it, or close the line. Raises BrokerError."""
        try:
            self._line.ask(self._session.begin())
        except LINK_ERRORS as exc:
            self._line.close()
            raise BrokerError(f"broker {mask_url(url)}: {exc}") from exc
        except ResponseError as exc:
            self._line.close()
            raise BrokerError(f"broker {mask_url(url)}: {meaning_of(exc)}") from exc

    def take_up(self, unsettled: Iterable[str]) -> None:
        """Take it up on a new connection, and put back what it holds beside ``unsettled``: that was taken, and the
        reply was lost. Raises SessionOverError if there is nothing to take up.
        """
        news = News.of(self._line.ask(self._session.renew()))
        if not news.alive:
            raise SessionOverError
        held = self._line.ask(("ZRANGE", self._session.held, 0, -1))
        self._restorer.give_back({tag.decode() for tag in held} - set(unsettled))

    def leave(self, unsettled: Iterable[str]) -> None:
        """Put back all that is ``unsettled``, and end it."""
        self._restorer.give_back(unsettled)
        self._line.ask(self._session.end())
