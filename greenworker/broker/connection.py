"""Opening a broker connection from a URL: the right kombu transport, TLS, timeouts; errors that say what to do."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kombu
from amqp.exceptions import AccessRefused, AMQPError, NotAllowed

from greenworker.broker.amqp.connection import SSLTransport, Transport
from greenworker.errors import BrokerError, StateFolderError
from greenworker.green.base import LoopWaiter
from greenworker.settings.secrets import mask_url

AMQP_SCHEMES = frozenset({"amqp", "pyamqp", "amqps", "rabbitmq"})
SQLITE_SCHEME = "sqlite"


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How to connect, whatever the URL. Times in seconds; ``heartbeat`` 0 is off."""

    connect_timeout: float = 5.0
    heartbeat: float = 30.0
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_verify: bool = True
    on_blocked: Callable[[str], None] | None = None
    on_unblocked: Callable[[], None] | None = None


def scheme_of(url: str) -> str:
    """The URL's scheme, lower case."""
    return urlsplit(url).scheme.lower()


def is_amqp(url: str) -> bool:
    """Whether our own AMQP path serves this URL."""
    return scheme_of(url) in AMQP_SCHEMES


def database_path(url: str) -> Path:
    """The file of a ``sqlite:////absolute/path`` URL."""
    return Path("/" + url.partition("://")[2].lstrip("/"))


def tls_parameters(url: str, options: ConnectionOptions) -> dict[str, Any] | bool:
    """py-amqp's ``ssl`` argument: verified against the system's or the given authorities, unless switched off."""
    if scheme_of(url) != "amqps":
        return False
    parameters: dict[str, Any] = {
        "cert_reqs": ssl.CERT_REQUIRED if options.tls_verify else ssl.CERT_NONE,
        "server_hostname": urlsplit(url).hostname,
        "check_hostname": options.tls_verify,
        "ca_certs": options.tls_ca or (ssl.get_default_verify_paths().cafile if options.tls_verify else None),
        "certfile": options.tls_cert,
        "keyfile": options.tls_key,
    }
    return {key: value for key, value in parameters.items() if value is not None}


def open_connection(url: str, options: ConnectionOptions, waiter: LoopWaiter | None = None) -> kombu.Connection:
    """Connect; returns a connected ``kombu.Connection``.

    ``waiter`` is how the owning loop waits for the socket (AMQP alone). Raises BrokerError, its text without the
    password, when the broker cannot be reached or refuses us.
    """
    if is_amqp(url):
        connection = _amqp_connection(url, options, waiter)
    else:
        if scheme_of(url) == SQLITE_SCHEME:
            import greenworker.broker.sqlite  # noqa: F401 - registers the transport with kombu
        connection = kombu.Connection(url, connect_timeout=options.connect_timeout)
    try:
        connection.connect()
    except StateFolderError:
        raise
    except Exception as exc:  # drivers raise what they like; each is told as one kind, with what to do about it
        connection.release()
        raise BrokerError(f"broker {mask_url(url)}: {_reason(exc)}") from exc
    return connection


def _amqp_connection(url: str, options: ConnectionOptions, waiter: LoopWaiter | None) -> kombu.Connection:
    tls = tls_parameters(url, options)
    transport_options: Mapping[str, Any] = {
        "waiter": waiter,
        "on_blocked": options.on_blocked,
        "on_unblocked": options.on_unblocked,
    }
    return kombu.Connection(
        url,
        transport=SSLTransport if tls else Transport,
        ssl=tls,
        heartbeat=options.heartbeat,
        connect_timeout=options.connect_timeout,
        transport_options=transport_options,
    )


def _reason(exc: Exception) -> str:
    if isinstance(exc, AccessRefused):
        return "login refused: check the user and password in [broker] url"
    if isinstance(exc, NotAllowed):
        return f"access to the virtual host refused: {exc}"
    if isinstance(exc, ConnectionRefusedError):
        return "connection refused: is the broker running, and is the port right?"
    if isinstance(exc, TimeoutError):
        return "no answer within [broker] connect_timeout"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({exc.verify_message}): set [broker] tls_ca"
    if isinstance(exc, AMQPError):
        return f"{type(exc).__name__}: {exc}"
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
