"""kombu's own connection to the same Redis, for what is kombu's business: purging, remote control, events."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import quote

from kombu.connection import Connection

from greenworker.broker.connection import ConnectionOptions
from greenworker.broker.redis.address import Address, Login, parse_address
from greenworker.broker.redis.link import SILENCE_LIMIT, open_link


def open_kombu(url: str, options: ConnectionOptions) -> Any:
    """A connected ``kombu.Connection``. Raises BrokerError and LoginRefusedError as ``open_link``."""
    open_link(url, options).drop()  # whose errors say what to do; kombu's differ with the way they come
    address = parse_address(url)
    connection = Connection(  # type: ignore[no-untyped-call]
        kombu_redis_url(address),
        ssl=_tls(options) if address.tls else False,
        connect_timeout=options.connect_timeout,
        transport_options=_transport_options(address, options),
    )
    connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)  # type: ignore[no-untyped-call]
    return connection


def kombu_redis_url(address: Address) -> str:
    """The URL as kombu reads it: each sentinel a URL of its own."""
    login = _user_part(address.login)
    if address.path is not None:
        return f"redis+socket://{login}{quote(address.path)}?virtual_host={address.database}"
    if address.master_name is None:
        [(host, port)] = address.hosts
        return f"redis://{login}{_in_url(host)}:{port}/{address.database}"
    return ";".join(f"sentinel://{login}{_in_url(host)}:{port}/{address.database}" for host, port in address.hosts)


def _user_part(login: Login) -> str:
    if login.username is None and login.password is None:
        return ""
    return f"{quote(login.username or '', safe='')}:{quote(login.password or '', safe='')}@"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _tls(options: ConnectionOptions) -> dict[str, Any]:
    return {
        "ssl_cert_reqs": ssl.CERT_REQUIRED if options.tls_verify else ssl.CERT_NONE,
        "ssl_check_hostname": options.tls_verify,
        "ssl_ca_certs": options.tls_ca,
        "ssl_certfile": options.tls_cert,
        "ssl_keyfile": options.tls_key,
    }


def _transport_options(address: Address, options: ConnectionOptions) -> dict[str, Any]:
    timeouts = {"socket_connect_timeout": options.connect_timeout, "socket_timeout": options.heartbeat or SILENCE_LIMIT}
    if address.master_name is None:
        return timeouts
    login = {"username": address.sentinel_login.username, "password": address.sentinel_login.password}
    tls = {"ssl": True, **_tls(options)} if address.tls else {}
    return {**timeouts, "master_name": address.master_name, "sentinel_kwargs": {**timeouts, **login, **tls}}
