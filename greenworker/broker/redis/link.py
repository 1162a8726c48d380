"""One connection to Redis: commands in one write, their replies in one go; and what its errors mean.

redis-py connects, logs in and speaks the protocol. Its clients are not used: they connect again and send again by
themselves, and a script that was sent twice takes twice.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from typing import Any

from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from greenworker.broker.connection import ConnectionOptions, LoginRefusedError, reason_of
from greenworker.broker.redis.address import Address, Login, parse_address
from greenworker.broker.redis.scripts import Argument, ScriptCall
from greenworker.errors import BrokerError
from greenworker.settings.secrets import mask_url

CLIENT_NAME = "greenworker"
SILENCE_LIMIT = 30.0  # seconds without a reply after which a connection is given up, where heartbeats are off

Command = ScriptCall | tuple[Argument, ...]

# A connection that raised one of these is gone; whether what was sent has been done is not known.
LINK_ERRORS = (OSError, RedisConnectionError, RedisTimeoutError, InvalidResponse)

_CODE = re.compile(r"^(?:.*[:\s]-)?([A-Z]{3,}) ")  # Redis before 7 puts a script's error behind text of its own
_ADVICE = {
    "OOM": "its memory is full: raise maxmemory, or make room",
    "READONLY": "it is a read-only replica",
    "MISCONF": "it cannot save to its disk, and is configured to take no writes then",
    "NOREPLICAS": "it has fewer replicas than min-replicas-to-write asks for",
    "BUSY": "it is busy with somebody's script",
    "MASTERDOWN": "it is a replica that has lost its master",
    "NOPERM": "the user's rights (ACL) do not allow it; greenworker needs +@all -@dangerous and all its keys",
    "MOVED": "it is a node of a Redis Cluster, which kombu and greenworker do not work on",
    "CLUSTERDOWN": "it is a node of a Redis Cluster, which kombu and greenworker do not work on",
}
# These pass by themselves, or when the operator mends them; whoever is refused so waits.
TEMPORARY = frozenset({"OOM", "READONLY", "MISCONF", "NOREPLICAS", "BUSY", "MASTERDOWN", "TRYAGAIN"})
_CODES_OF_CLASSES = {OutOfMemoryError: "OOM", ReadOnlyError: "READONLY", NoPermissionError: "NOPERM"}


def code_of(error: ResponseError) -> str:
    """The code of an error reply, such as OOM; an empty text where it has none."""
    for kind, code in _CODES_OF_CLASSES.items():  # redis-py cuts the codes off that it has a class for
        if isinstance(error, kind):
            return code
    match = _CODE.match(f"{error} ")
    return match[1] if match and match[1] != "ERR" else ""


def meaning_of(error: ResponseError) -> str:
    """An error reply for people to read, with what to do about it where that is known."""
    advice = _ADVICE.get(code_of(error))
    return f"{advice} ({error})" if advice else str(error)


def checked(replies: Sequence[Any]) -> Sequence[Any]:
    """``replies``, none of which is an error. Raises the first that is."""
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
    return replies


class Link:
    """A connection, used by one caller at a time. Errors of it (LINK_ERRORS) end it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def call(self, commands: Sequence[Command], timeout: float) -> list[Any]:
        """Send all in one write; returns a reply for each, in which a ResponseError is one like any other.

        A script that Redis does not know yet, or any more, is sent again with its text: it was not run. Raises one of
        LINK_ERRORS when no reply came for ``timeout`` seconds.
        """
        sent = [command.by_sha if isinstance(command, ScriptCall) else command for command in commands]
        replies = self._exchange(sent, timeout)
        unknown = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            texts = [command.by_text for index in unknown if isinstance(command := commands[index], ScriptCall)]
            for index, reply in zip(unknown, self._exchange(texts, timeout), strict=True):
                replies[index] = reply
        return replies

    def ask(self, command: Command, timeout: float) -> Any:
        """One command. Raises ResponseError, too."""
        return checked(self.call([command], timeout))[0]

    @property
    def database(self) -> int:
        """The number of the database that it uses."""
        return int(self._connection.db)

    @property
    def socket(self) -> Any:
        """The socket; for whoever reads it by himself."""
        socket = self._connection._sock  # redis-py shows it nowhere else
        if socket is None:
            raise RedisConnectionError("the connection is closed")
        return socket

    def send(self, command: tuple[Argument, ...]) -> None:
        """Send it and do not wait for a reply. One caller at a time, which may be another one than ``receive`` has."""
        _ = self.socket
        self._connection.send_packed_command(self._connection.pack_command(*command), check_health=False)

    def receive(self, timeout: float) -> Any:
        """The next reply or message; None if none came for ``timeout`` seconds. Raises one of LINK_ERRORS."""
        _ = self.socket
        return self._reply() if self._connection.can_read(timeout) else None

    def drop(self) -> None:
        """Hang up. Harmless twice."""
        self._connection.disconnect()

    def _exchange(self, commands: Sequence[tuple[Argument, ...]], timeout: float) -> list[Any]:
        connection = self._connection
        self.socket.settimeout(timeout)  # asking for the socket, too: redis-py would connect again in silence
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        return [self._reply() for _ in commands]

    def _reply(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:
            return error


def open_link(url: str, options: ConnectionOptions) -> Link:
    """Connect and log in.

    Raises BrokerError, its text without the password, when Redis cannot be reached, and LoginRefusedError when it
    refuses us.
    """
    try:
        address = parse_address(url)
    except ValueError as exc:
        raise BrokerError(f"{options.section} {mask_url(url)}: not a URL that can be read: {exc}") from None
    try:
        connection = _connection(address, options)
        connection.connect()
    except MasterNotFoundError as exc:
        raise BrokerError(
            f"{options.section} {mask_url(url)}: no sentinel knows a master {address.master_name!r} that is up: {exc}"
        ) from exc
    except (OSError, RedisError) as exc:
        raise _kind(exc)(
            f"{options.section} {mask_url(url)}: {_reason(exc, options.section, tls=address.tls)}"
        ) from exc
    return Link(connection)


def _connection(address: Address, options: ConnectionOptions) -> Any:
    """redis-py's connection, not connected yet."""
    arguments: dict[str, Any] = {
        "db": address.database,
        "client_name": CLIENT_NAME,
        "protocol": 2,  # 3 would push what CLIENT TRACKING tells into the replies
        **_connecting(options, address.login),
    }
    if address.path is not None:
        return UnixDomainSocketConnection(path=address.path, **arguments)  # type: ignore[no-untyped-call, abstract]
    host, port = address.hosts[0] if address.master_name is None else _master(address, options)
    kind = SSLConnection if address.tls else Connection
    return kind(host=host, port=port, socket_keepalive=True, **arguments, **_tls(address, options))


def _connecting(options: ConnectionOptions, login: Login) -> dict[str, Any]:
    return {
        "username": login.username,
        "password": login.password,
        "socket_connect_timeout": options.connect_timeout,
        "socket_timeout": options.connect_timeout,  # for the login; each call then has a timeout of its own
        "retry": Retry(NoBackoff(), 0),
    }


def _tls(address: Address, options: ConnectionOptions) -> dict[str, Any]:
    if not address.tls:
        return {}
    return {
        "ssl_cert_reqs": "required" if options.tls_verify else "none",
        "ssl_check_hostname": options.tls_verify,
        "ssl_ca_certs": options.tls_ca,  # None: the system's
        "ssl_certfile": options.tls_cert,
        "ssl_keyfile": options.tls_key,
    }


def _master(address: Address, options: ConnectionOptions) -> tuple[str, int]:
    """Where the sentinels say that the master is."""
    assert address.master_name is not None
    arguments = {**_connecting(options, address.sentinel_login), **_tls(address, options), "protocol": 2}
    if address.tls:
        arguments["ssl"] = True
    sentinel = Sentinel(address.hosts, sentinel_kwargs=arguments)  # type: ignore[no-untyped-call]
    try:
        host, port = sentinel.discover_master(address.master_name)  # type: ignore[no-untyped-call]
    finally:
        for client in sentinel.sentinels:
            client.connection_pool.disconnect()
    return host, port


def _kind(exc: Exception) -> type[BrokerError]:
    refused = isinstance(exc, (AuthenticationError, NoPermissionError))
    untrusted = any(isinstance(cause, ssl.SSLCertVerificationError) for cause in (exc.__cause__, exc.__context__))
    return LoginRefusedError if refused or untrusted else BrokerError


def _reason(exc: Exception, section: str, *, tls: bool) -> str:
    if isinstance(exc, BusyLoadingError):
        return "it is starting, and loads its data from the disk"
    if isinstance(exc, AuthenticationError):
        return f"login refused: check the user and password in [{section}] url ({exc})"
    if isinstance(exc, ResponseError):
        return meaning_of(exc)
    if isinstance(exc, RedisTimeoutError):
        reason = reason_of(TimeoutError(), section)
        return f"{reason} Is this Redis' TLS port?" if tls else reason  # one without TLS waits for more
    cause = exc.__cause__ or exc.__context__  # redis-py puts a system's error into words of its own
    return reason_of(cause if isinstance(cause, OSError) else exc, section)
