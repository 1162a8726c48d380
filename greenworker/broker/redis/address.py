"""What a Redis URL says: where the server or its sentinels are, who logs in, which database.

    redis://[[user]:password@]host[:port][/database]          rediss:// the same over TLS
    redis+socket://[[user]:password@]/path/to/socket[?virtual_host=database]
    sentinel://[[user]:password@]host[:port];host[:port][/database]?master_name=NAME[&tls=yes]

A sentinel URL's user and password are those of Redis; the sentinels' own are ``sentinel_username`` and
``sentinel_password`` in the query.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

REDIS_PORT, SENTINEL_PORT = 6379, 26379
_YES = frozenset({"1", "yes", "true", "on"})


@dataclass(frozen=True, slots=True)
class Login:
    """A user of Redis' ACL, or a password alone."""

    username: str | None = None
    password: str | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed URL. ``master_name`` is set where ``hosts`` are sentinels, ``path`` where it is a unix socket."""

    hosts: tuple[tuple[str, int], ...]
    database: int = 0
    login: Login = Login()
    tls: bool = False
    path: str | None = None
    master_name: str | None = None
    sentinel_login: Login = Login()


def parse_address(url: str) -> Address:
    """Parse a URL of one of connection.REDIS_SCHEMES. Raises ValueError, whose text holds no part of the URL."""
    scheme, _, rest = url.partition("://")
    user_part, _, place = rest.rpartition("@")  # as in mask_url: a password may hold anything
    place, _, query_text = place.partition("?")
    query = dict(parse_qsl(query_text))
    login = _login(*user_part.partition(":")[::2])
    if scheme.lower() == "redis+socket":
        if not place.startswith("/"):
            raise ValueError("expected the absolute path of a socket: redis+socket:///path/to/socket")
        database = _database(query.get("virtual_host") or query.get("db") or "")
        return Address((), database, login, path=unquote(place))
    hosts_text, _, path = place.partition("/")
    if scheme.lower() != "sentinel":
        host = _host(hosts_text, REDIS_PORT)
        return Address((host,), _database(path or query.get("db", "")), login, tls=scheme.lower() == "rediss")
    master_name = query.get("master_name")
    if not master_name:
        raise ValueError("expected ?master_name=NAME, the name that the sentinels know the server by, at its end")
    return Address(
        tuple(_host(text, SENTINEL_PORT) for text in re.split("[;,]", hosts_text)),
        _database(path),
        login,
        tls=query.get("tls", "").lower() in _YES,
        master_name=master_name,
        sentinel_login=_login(query.get("sentinel_username", ""), query.get("sentinel_password", "")),
    )


def _login(username: str, password: str) -> Login:
    return Login(unquote(username) or None, unquote(password) or None)


def _host(text: str, default_port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d+))?", text)
    if match is None:
        raise ValueError("expected host or host:port")
    return match[1].strip("[]") or "localhost", int(match[2] or default_port)


def _database(path: str) -> int:
    number = unquote(path).strip("/")
    if number and not number.isdecimal():
        raise ValueError("expected the number of a database behind the last /, such as redis://host:6379/0")
    return int(number or 0)
