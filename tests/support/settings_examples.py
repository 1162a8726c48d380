"""A valid value that is no default for every row of the table, and what else must be set for it to be valid."""

from __future__ import annotations

from pathlib import Path

from greenworker.settings import kinds, table

Overrides = dict[tuple[str, str], str]

_NUMBERS = {kinds.Integer: "17", kinds.Number: "17", kinds.Duration: "7s", kinds.Size: "3MiB"}
_TEXTS = {
    "app": "shop.tasks:app",
    "name": "100%;#%h",
    "state_directory": "/srv/state of things",
    "default_queue": "orders",
    "file_group": "www-data",
    "release": "django, sqlalchemy:shop.db:Session, shop.db:give_back",
    "steps": "shop.steps:Audit, shop.steps:Other.Inner",
    "queues": "alpha, beta",
    "exclude_queues": "alpha, beta",
    "accept": "json, yaml, pickle",  # what `companions` needs of it, for tests that set several rows
}
_URLS = {"broker": "amqp://user:s%40crt@[::1]:5671/shop;x ; amqp://other/", "results": "sqlite:////srv/results.db"}


def text_for(row: table.Row, folder: Path) -> str:
    """A text for ``row``; files it names are made in ``folder``."""
    if isinstance(row.kind, kinds.Boolean):
        return "no" if row.default else "yes"
    if isinstance(row.kind, kinds.Choice):
        return next(choice for choice in row.kind.choices if choice != row.default)
    if type(row.kind) in _NUMBERS:
        return _NUMBERS[type(row.kind)]
    if row.key == "url":
        return _URLS[row.section]
    if row.key.startswith("tls_"):
        (folder / "some.pem").touch()
        return str(folder / "some.pem")
    return _TEXTS[row.key]


def companions(row: table.Row, folder: Path) -> Overrides:
    """What must be set along with ``row`` for the settings to be valid."""
    if row.key in ("tls_ca", "tls_cert", "tls_key"):
        (folder / "cert.pem").touch()
        needed = {("broker", "url"): "amqps://host", ("broker", "tls_cert"): str(folder / "cert.pem")}
        return {name: text for name, text in needed.items() if name != (row.section, row.key)}
    if row.name == "[task] serializer":
        return {("broker", "accept"): "json, yaml, msgpack, pickle"}
    return {}
