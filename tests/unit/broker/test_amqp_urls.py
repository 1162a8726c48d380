"""What a broker URL and the connection settings come to, without a broker."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.url import parse_url

from greenworker.broker.connection import (
    ConnectionOptions,
    database_path,
    is_amqp,
    kombu_url,
    scheme_of,
    tls_parameters,
)


@pytest.mark.parametrize(
    ("url", "scheme", "amqp"),
    [
        ("amqp://", "amqp", True),
        ("AMQPS://host", "amqps", True),
        ("pyamqp://host", "pyamqp", True),
        ("sqlite:////x", "sqlite", False),
        ("redis://host/0", "redis", False),
    ],
)
def test_schemes(url: str, scheme: str, amqp: bool) -> None:
    assert scheme_of(url) == scheme
    assert is_amqp(url) is amqp


def test_database_path() -> None:
    assert database_path("sqlite:////var/lib/x/queue.db") == Path("/var/lib/x/queue.db")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="%"), min_size=1))
def test_a_password_with_anything_in_it_reaches_kombu_whole(password: str) -> None:
    parsed = parse_url(kombu_url(f"amqp://user:{password}@host:5673/vhost"))
    assert parsed["password"] == password
    assert (parsed["userid"], parsed["hostname"], parsed["port"]) == ("user", "host", 5673)
    assert ";" not in kombu_url(f"amqp://user:{password}@host:5673/vhost"), "kombu would split there"


def test_an_encoded_password_stays_encoded() -> None:
    assert parse_url(kombu_url("amqp://user:a%40b@[::1]:5673/v%2Fw"))["password"] == "a@b"
    assert parse_url(kombu_url("amqp://user:a%40b@[::1]:5673/v%2Fw"))["virtual_host"] == "v/w"


def test_tls_is_verified_unless_switched_off() -> None:
    assert tls_parameters("amqp://host", ConnectionOptions()) is False
    assert tls_parameters("amqps://Host", ConnectionOptions()) == {
        "cert_reqs": ssl.CERT_REQUIRED,
        "server_hostname": "host",
    }
    assert tls_parameters("amqps://host", ConnectionOptions(tls_verify=False)) == {"cert_reqs": ssl.CERT_NONE}
    assert tls_parameters("amqps://host", ConnectionOptions(tls_ca="ca", tls_cert="cert", tls_key="key")) == {
        "cert_reqs": ssl.CERT_REQUIRED,
        "server_hostname": "host",
        "ca_certs": "ca",
        "certfile": "cert",
        "keyfile": "key",
    }
