"""Why a broker cannot be reached, in words that say what to do; and how long trying takes. No broker is needed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from greenworker.broker.connection import ConnectionOptions, open_connection, open_first
from greenworker.errors import BrokerError


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def http_port() -> Iterator[int]:
    """A port that answers as a web server does."""

    def answer() -> None:
        peer, _ = server.accept()
        with peer:
            peer.recv(100)
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


def test_host_name_that_does_not_resolve() -> None:
    with pytest.raises(BrokerError) as caught:
        open_connection("amqp://shop:hunter2@rabbit.invalid//", ConnectionOptions())
    assert str(caught.value).startswith("broker amqp://shop:***@rabbit.invalid//: the host's name was not found (")
    assert str(caught.value).endswith("): check the name in [broker] url, and this machine's DNS")


def test_port_of_something_else(http_port: int) -> None:
    with pytest.raises(BrokerError, match="speaks no AMQP: is this the broker's AMQP port, 5672"):
        open_connection(f"amqp://127.0.0.1:{http_port}//", ConnectionOptions())


def test_silent_brokers_share_the_time(silent_port: int) -> None:
    url = f"amqp://127.0.0.1:{silent_port}//"
    began = time.monotonic()
    with pytest.raises(BrokerError) as caught:
        open_first([url, url, url], ConnectionOptions(connect_timeout=20), began + 0.6)
    assert str(caught.value).count("no answer within [broker] connect_timeout: are host and port right") == 3
    assert 0.5 < time.monotonic() - began < 1.5
