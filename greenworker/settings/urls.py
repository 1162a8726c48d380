"""URLs of brokers and results stores: which schemes there are, what is checked, and where SQLite files stand.

The rule of ``kinds`` holds here too: no message holds any part of the URL that came.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from greenworker.settings.kinds import Kind
from greenworker.settings.secrets import MASK

EMBEDDED = "sqlite"
SENTINEL = "sentinel"

# kombu's transports by their aliases; a class of one's own is written package.module:Class
BROKER_SCHEMES = (
    "amqp",
    "amqps",
    "pyamqp",
    "librabbitmq",
    EMBEDDED,
    "redis",
    "rediss",
    "redis+socket",
    SENTINEL,
    "memory",
    "filesystem",
    "sqs",
    "sns",
    "azureservicebus",
    "azurestoragequeues",
    "confluentkafka",
    "kafka",
    "consul",
    "etcd",
    "gcpubsub",
    "mongodb",
    "pgmq",
    "pyro",
    "qpid",
    "slmq",
    "sqla",
    "sqlalchemy",
    "valkey",
    "valkeys",
    "zookeeper",
)
TLS_SCHEMES = ("amqps", "rediss", "valkeys")
RESULTS_SCHEMES = (EMBEDDED, "redis", "rediss", "redis+socket", "sentinel", "rpc")
NO_RESULTS = "none"

_SPLIT = re.compile(r"\s*;\s*(?=[A-Za-z][A-Za-z0-9+.\-]*://)|\s+")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://(?P<rest>[^\s]*)")
_CLASS_URL = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*://\S*")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^:\[\]#]*)(?::(?P<port>.*))?")
_MASKED = re.compile(rf"(?://|[:=#&?]){re.escape(MASK)}(?=[@&#,;/?\s]|$)")  # where mask_url puts it, as a whole part
_HIGHEST_PORT = 65_535
_IN_A_PASSWORD = "in a password, @ : / ? % are written %40 %3A %2F %3F %25"


@dataclass(frozen=True)
class BrokerURLs:
    """One broker URL, or several to fail over to in this order."""

    metavar: str = "URL"
    expected: str = (
        "a URL such as amqp://user:password@host:5672/vhost or sqlite:////absolute/path/broker.db, or several, "
        f"separated by white space or ';' ({_IN_A_PASSWORD})"
    )
    multiline: bool = True

    def parse(self, text: str) -> tuple[str, ...]:
        _refuse_masked(text)
        urls = tuple(url for url in _SPLIT.split(text) if url)
        if not urls:
            raise ValueError(self.expected)
        # no broker's URL has a fragment, so that a # (in a password, say) can only mean itself
        urls = _joined_sentinels(url.replace("#", "%23") for url in urls)
        for url in urls:
            if not _CLASS_URL.fullmatch(url):
                _check_url(url, BROKER_SCHEMES, self.expected)
        return urls

    def format(self, value: tuple[str, ...]) -> str:
        return "\n".join(value)


@dataclass(frozen=True)
class ResultsURL:
    """The URL of a results store, or ``none``."""

    metavar: str = "URL"
    expected: str = (
        f"redis://:password@host:6379/0 ({_IN_A_PASSWORD}), rpc://, sqlite:////absolute/path/results.db, "
        f"or {NO_RESULTS} to keep no results"
    )
    multiline: bool = False

    def parse(self, text: str) -> str:
        if text.lower() == NO_RESULTS:
            return NO_RESULTS
        _refuse_masked(text)
        _check_url(text, RESULTS_SCHEMES, self.expected)
        return text

    def format(self, value: str) -> str:
        return value


BROKER_URLS: Kind[tuple[str, ...]] = BrokerURLs()
RESULTS_URL: Kind[str] = ResultsURL()


def scheme_of(url: str) -> str:
    """Return the scheme in lower case; an empty text if there is none."""
    return url.partition("://")[0].lower() if "://" in url else ""


def is_embedded(urls: Iterable[str]) -> bool:
    """Tell whether these broker URLs are SQLite files."""
    return all(scheme_of(url) == EMBEDDED for url in urls)


def sqlite_url(path: Path) -> str:
    """Return the URL of an absolute path; characters with a meaning in URLs are percent-encoded."""
    return f"{EMBEDDED}:///{quote(str(path))}"


def sqlite_path(url: str) -> Path:
    """Return the absolute path in a ``sqlite:////absolute/path`` URL, without its query."""
    return Path(unquote(url.removeprefix(f"{EMBEDDED}:///").partition("?")[0]))


def _joined_sentinels(urls: Iterable[str]) -> tuple[str, ...]:
    """The sentinels of one Redis, which kombu writes as ``sentinel://a;sentinel://b/0``, as one URL with two hosts.

    Database and query are the last one's; a user and password count if any of them has them.
    """
    joined: list[str] = []
    for url in urls:
        scheme, _, rest = url.partition("://")
        before = joined[-1] if joined else ""
        if scheme_of(before) == SENTINEL == scheme.lower() and "?" not in before:
            first_user, _, first = before.partition("://")[2].rpartition("@")
            user, _, place = rest.rpartition("@")
            login = f"{user or first_user}@" if user or first_user else ""
            joined[-1] = f"{SENTINEL}://{login}{first.partition('/')[0]};{place}"
        else:
            joined.append(url)
    return tuple(joined)


def _check_url(url: str, schemes: tuple[str, ...], expected: str) -> None:
    """Raise ValueError for what would otherwise fail late, or be read as something else than was meant."""
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError(expected)
    scheme = match["scheme"].lower()
    if scheme not in schemes:
        raise ValueError(f"{expected}; what stands before its :// is none of the schemes that are known")
    if scheme == EMBEDDED:
        if not re.fullmatch(r"//[^?#]*[^?#/](\?[^#]*)?", match["rest"]):
            raise ValueError(
                f"{EMBEDDED}:// and the absolute path of a file: four slashes in all before its first folder"
            )
    else:
        hosts = re.split(r"[/?]", match["rest"], maxsplit=1)[0].rpartition("@")[2]
        for host in re.split(r"[,;]", hosts):
            _check_host(host, expected)
        if scheme in {"redis", "rediss", SENTINEL}:
            _check_redis(scheme, match["rest"])


def _check_redis(scheme: str, rest: str) -> None:
    place, _, query = rest.rpartition("@")[2].partition("?")
    database = place.partition("/")[2].strip("/")
    if database and not database.isdecimal():
        raise ValueError("a URL whose last part is the number of a database, such as redis://host:6379/0")
    if scheme == SENTINEL and "master_name=" not in query:
        raise ValueError(
            "a sentinel's URL that ends in ?master_name=NAME, the name that the sentinels know the server by"
        )


def _check_host(host: str, expected: str) -> None:
    match = _HOST.fullmatch(host)
    if match is None:
        raise ValueError(expected)
    port = match["port"]
    if port is not None and not (re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= _HIGHEST_PORT):
        raise ValueError(f"a URL whose port is a number from 1 to {_HIGHEST_PORT}, or left out ({_IN_A_PASSWORD})")


def _refuse_masked(text: str) -> None:
    """Raise ValueError for what ``mask_url`` made: copied from a log or print-config, it could only fail to log in."""
    if _MASKED.search(text):
        raise ValueError(
            f"a URL with its secret, got a masked value, as print-config and logs show it: fill in what {MASK} stands "
            "for (a secret that is these three stars is written %2A%2A%2A)"
        )
