"""Masking of secrets, for everything that a person or a log may see.

The rule this file keeps: where it cannot tell which part of a value is secret, it hides the whole part. Showing too
little costs a look into the INI file; showing too much costs a password.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "***"
HIDDEN = "<hidden>"  # stands for a whole value in an error message

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
_USER = re.compile(r"[^/?#@]*")
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]*\]|[^:\[\]]*)(:\d*)?")


def mask_url(url: str) -> str:
    """Return ``url`` fit to be shown: ``amqp://user:***@host//``.

    Hidden are the password, a user name without one (``redis://token@host``), every value in the query, the
    fragment, and whatever stands where a port should (``amqp://user:password`` with its host forgotten). Text that is
    no URL is hidden whole. A password may hold any unescaped character: the user part ends at the *last* ``@``, so a
    faulty URL shows less than it could, never more.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        return MASK if url else ""
    user_part, at, rest = url[scheme.end() :].rpartition("@")
    rest, hash_sign, _ = rest.partition("#")
    rest, question_mark, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    return "".join(
        (
            scheme.group(),
            _mask_user_part(user_part) + at if at else "",
            _mask_authority(authority),
            slash + path,
            question_mark + _mask_query(query) if question_mark else "",
            hash_sign + MASK if hash_sign else "",
        )
    )


def mask(value: object) -> str:
    """Return any secret value fit to be shown: URLs masked by :func:`mask_url`, each on its own in a list."""
    if value is None:
        return ""
    if isinstance(value, str):
        return mask_url(value)
    if isinstance(value, Iterable):
        return " ".join(mask(item) for item in value)
    return MASK


def _mask_user_part(user_part: str) -> str:
    user, _, password = user_part.partition(":")
    # a user name alone may be a token; one with these characters is a query or a path, its "@" not the user part's
    if not password or not _USER.fullmatch(user):
        return MASK
    return f"{user}:{MASK}"


def _mask_authority(authority: str) -> str:
    """Several hosts may stand in one URL, separated by ``,`` or ``;``; each has a port of digits or nothing shown."""
    hosts = re.split(r"([,;])", authority)
    return "".join(
        host if separator or _HOST_AND_PORT.fullmatch(host) else f"{host.partition(':')[0]}:{MASK}"
        for separator, host in ((index % 2, part) for index, part in enumerate(hosts))
    )


def _mask_query(query: str) -> str:
    return "&".join(
        f"{name}={MASK}" if equals else MASK
        for name, equals, _ in (part.partition("=") for part in query.split("&"))
        if name or equals
    )
