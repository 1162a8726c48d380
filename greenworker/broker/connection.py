"""Opening a broker connection from a URL: the right kombu transport, TLS, timeouts; errors that say what to do."""

from __future__ import annotations

import importlib.util
import math
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from amqp.exceptions import AccessRefused, NotAllowed, UnexpectedFrame
from kombu.connection import Connection

from greenworker.broker.amqp.connection import SSLTransport, Transport
from greenworker.errors import BrokerError, StateFolderError
from greenworker.green.base import LoopWaiter
from greenworker.settings.secrets import mask_url

AMQP_SCHEMES = frozenset({"amqp", "pyamqp", "amqps", "rabbitmq"})
SQLITE_SCHEME = "sqlite"
REDIS_SCHEMES = frozenset({"redis", "rediss", "redis+socket", "sentinel"})
SHORTEST_TRY = 0.1  # seconds to connect in where the deadline is over already

_REFUSALS = (AccessRefused, NotAllowed, ssl.SSLCertVerificationError)


class ConnectionLostError(BrokerError):
    """An open connection to the broker is gone, or the broker closed it; what was not settled is delivered again."""


class LoginRefusedError(BrokerError):
    """The broker answers but does not let us in: user, password, rights or certificate. Trying again is no use."""


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How to connect, whatever the URL. Times in seconds; ``heartbeat`` 0 is off.

    ``section``: that of the settings in which the URL is; errors name it.
    """

    connect_timeout: float = 5.0
    heartbeat: float = 30.0
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_verify: bool = True
    on_blocked: Callable[[str], None] | None = None
    on_unblocked: Callable[[], None] | None = None
    section: str = "broker"


def scheme_of(url: str) -> str:
    """The URL's scheme, lower case."""
    return url.partition("://")[0].lower()


def is_amqp(url: str) -> bool:
    """Whether our own AMQP path serves this URL."""
    return scheme_of(url) in AMQP_SCHEMES


def is_redis(url: str) -> bool:
    """Whether our own Redis path serves this URL."""
    return scheme_of(url) in REDIS_SCHEMES


def check_driver(url: str) -> None:
    """Raises BrokerError if the package that our Redis path needs, an extra, is not installed."""
    if is_redis(url) and importlib.util.find_spec("redis") is None:
        raise BrokerError(
            f"broker {mask_url(url)}: its transport needs a package that is not installed: redis "
            "(pip install greenworker[redis])"
        )


def database_path(url: str) -> Path:
    """The file of a ``sqlite:////absolute/path`` URL, whose path may be percent-encoded."""
    return Path("/" + unquote(url.partition("://")[2].partition("?")[0]).lstrip("/"))


def kombu_url(url: str) -> str:
    """``url`` with what kombu would misread percent-encoded: it splits at ``;``, and a password may hold anything.

    As in ``mask_url`` the user part ends at the last ``@``, so that what is shown and what is used agree.
    """
    scheme, _, rest = url.partition("://")
    user_part, at, place = rest.rpartition("@")
    return f"{scheme.lower()}://{quote(user_part, safe=':%!$&()*+,=~')}{at}{place.replace(';', '%3B')}"


def tls_parameters(url: str, options: ConnectionOptions) -> dict[str, Any] | bool:
    """py-amqp's ``ssl`` argument: verified against the system's or the given authorities, unless switched off."""
    if scheme_of(url) != "amqps":
        return False
    parameters: dict[str, Any] = {
        "cert_reqs": ssl.CERT_REQUIRED if options.tls_verify else ssl.CERT_NONE,
        # py-amqp checks the name whenever it is given one, and ssl refuses that check without verification
        "server_hostname": urlsplit(kombu_url(url)).hostname if options.tls_verify else None,
        "ca_certs": options.tls_ca,  # None: the system's
        "certfile": options.tls_cert,
        "keyfile": options.tls_key,
    }
    return {key: value for key, value in parameters.items() if value is not None}


def open_connection(url: str, options: ConnectionOptions, waiter: LoopWaiter | None = None) -> Any:
    """Connect; returns a connected ``kombu.Connection`` (untyped, as kombu is).

    ``waiter`` is how the owning loop waits for the socket (AMQP alone). Raises BrokerError, its text without the
    password, when the broker cannot be reached, and LoginRefusedError when it refuses us.
    """
    try:
        if is_redis(url):
            check_driver(url)
            from greenworker.broker.redis.kombu import open_kombu

            return open_kombu(url, options)
        connection = _make_connection(url, options, waiter)
    except (ValueError, KeyError, ImportError) as exc:
        # ValueError's text may hold a part of the password ("port could not be cast ...'pass'"), so it is not passed on
        raise BrokerError(f"broker {mask_url(url)}: {_url_reason(exc)}") from None
    try:
        # connect() would try twice, two seconds apart: when to try again is the caller's business
        connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
    except StateFolderError:
        raise
    except Exception as exc:  # drivers raise what they like; each is told as one kind, with what to do about it
        connection.collect()
        kind = LoginRefusedError if isinstance(exc, _REFUSALS) else BrokerError
        raise kind(f"broker {mask_url(url)}: {reason_of(exc)}") from exc
    return connection


def open_first(
    urls: Sequence[str],
    options: ConnectionOptions,
    deadline: float = math.inf,
    opener: Callable[[str, ConnectionOptions], Any] = open_connection,
) -> Any:
    """Connect with ``opener`` to the first broker of a failover list that answers, by the monotonic ``deadline``.

    Those that are still to be tried share the time that is left, so that a silent one does not keep the others from
    their turn. Raises BrokerError with every one's reason, LoginRefusedError if that is each one's.
    """
    errors: list[BrokerError] = []
    for index, url in enumerate(urls):
        share = max(SHORTEST_TRY, deadline - time.monotonic()) / (len(urls) - index)
        try:
            return opener(url, replace(options, connect_timeout=min(options.connect_timeout, share)))
        except BrokerError as exc:
            errors.append(exc)
    refused = bool(errors) and all(isinstance(error, LoginRefusedError) for error in errors)
    kind = LoginRefusedError if refused else BrokerError
    raise kind("; ".join(map(str, errors)) or "no broker URL is set")


def _make_connection(url: str, options: ConnectionOptions, waiter: LoopWaiter | None) -> Any:
    if is_amqp(url):
        return _amqp_connection(url, options, waiter)
    if scheme_of(url) == SQLITE_SCHEME:
        import greenworker.broker.sqlite  # noqa: F401 - registers the transport with kombu
    connection = Connection(url, connect_timeout=options.connect_timeout)  # type: ignore[no-untyped-call]
    connection.transport  # noqa: B018 - an unknown transport is told here, as the mistake in the URL that it is
    return connection


def _amqp_connection(url: str, options: ConnectionOptions, waiter: LoopWaiter | None) -> Any:
    tls = tls_parameters(url, options)
    transport_options: Mapping[str, Any] = {
        "waiter": waiter,
        "on_blocked": options.on_blocked,
        "on_unblocked": options.on_unblocked,
    }
    return Connection(  # type: ignore[no-untyped-call]
        kombu_url(url),
        transport=SSLTransport if tls else Transport,
        ssl=tls,
        heartbeat=math.ceil(options.heartbeat),  # whole seconds on the wire, where 0 is off
        connect_timeout=options.connect_timeout,
        transport_options=transport_options,
    )


def _url_reason(exc: Exception) -> str:
    if isinstance(exc, ValueError):
        return "not a URL that can be read: expected scheme://user:password@host:port/vhost"
    if isinstance(exc, ImportError):
        return f"its transport needs a package that is not installed: {exc.name or exc}"
    return "kombu has no such transport; amqp://, amqps:// and sqlite:// are what greenworker is built for"


def reason_of(exc: Exception, section: str = "broker") -> str:
    """Why a connection could not be opened, for people to read, with what to do about it where that is known."""
    text = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
    told: tuple[tuple[type[Exception], str], ...] = (
        (AccessRefused, f"login refused: check the user and password in [{section}] url"),
        (NotAllowed, f"access to the virtual host refused: {getattr(exc, 'reply_text', exc)}"),
        (UnexpectedFrame, "what answers there speaks no AMQP: is this the broker's AMQP port, 5672 (with TLS 5671)?"),
        (ConnectionRefusedError, "connection refused: is the broker running, and is the port right?"),
        (
            socket.gaierror,
            f"the host's name was not found ({getattr(exc, 'strerror', exc)}): "
            f"check the name in [{section}] url, and this machine's DNS",
        ),
        (
            TimeoutError,
            "no answer within [broker] connect_timeout: are host and port right, and is there a firewall in between?",
        ),
        (
            ssl.SSLCertVerificationError,
            f"its certificate is not trusted ({getattr(exc, 'verify_message', exc)}): set [broker] tls_ca",
        ),
        (ssl.SSLError, f"TLS failed ({getattr(exc, 'reason', None) or exc}): is this the broker's TLS port?"),
    )
    return next((reason for kind, reason in told if isinstance(exc, kind)), text)
