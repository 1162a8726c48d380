"""kombu's pyamqp connection with a reader that takes whole chunks, and a short path for deliveries to our consumers.

Rules this file keeps (each was paid for with a dead connection):

* Everything that is not a delivery to one of our own consumers goes to py-amqp's ``on_inbound_frame``, unchanged.
* One ordinary method a call: py-amqp's ``wait`` looks for its reply after each. Looping on over a buffered reply would
  drop it, and the connection would die on its heartbeat. Only over short-path deliveries the reader loops on.
* Every write takes the lock that the frame writer takes, or frames of two greenlets mix (FrameError 501).
* No timeout on the socket where a waiter is given: it would hit another greenlet's write in mid-frame. Wait for
  readability, then read. Without a waiter (a producer's connection, used by one greenlet at a time) the socket's
  timeout serves.
* No wait is endless: a reply that does not come within ``reply_timeout`` is a lost connection.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from amqp.exceptions import RecoverableConnectionError, UnexpectedFrame
from amqp.method_framing import frame_writer
from kombu.transport import pyamqp

from greenworker.green.base import LoopWaiter

CHUNK_BYTES = 131_072  # py-amqp's frame_max; one recv takes dozens of ordinary messages
USER_TIMEOUT_MS = 30_000  # py-amqp's own 1,000 kills a peer that stops reading for 1.3 s

_FRAME_HEADER = struct.Struct(">BHI")
_DELIVERY_TAG = struct.Struct(">QB")
_BODY_SIZE = struct.Struct(">Q")
_METHOD, _CONTENT_HEADER, _BODY = 1, 2, 3
_BASIC_DELIVER = b"\0\x3c\0\x3c"
_FRAME_END = 0xCE


class DeliverySink(Protocol):
    """One of our consumers: takes a whole message as it came, undecoded."""

    def __call__(self, tag: int, redelivered: bool, route: bytes, properties: bytes, body: bytes) -> None:
        """``route`` is exchange and routing key, two short strings; ``properties`` begins at the property flags."""


class _PartialDelivery:
    """A delivery whose header or body frames have not all come."""

    __slots__ = ("chunks", "missing", "properties", "redelivered", "route", "sink", "tag")

    def __init__(self, sink: DeliverySink, tag: int, redelivered: bool, route: bytes) -> None:
        self.sink = sink
        self.tag = tag
        self.redelivered = redelivered
        self.route = route
        self.properties = b""
        self.chunks: list[bytes] = []
        self.missing = 0

    def add(self, kind: int, payload: bytes) -> bool:
        """Take the next frame; True when the message is whole."""
        if kind == _CONTENT_HEADER:
            self.missing = _BODY_SIZE.unpack_from(payload, 4)[0]
            self.properties = payload[12:]
        elif kind == _BODY:
            self.chunks.append(payload)
            self.missing -= len(payload)
        else:
            raise UnexpectedFrame(f"expected a content frame of delivery {self.tag}, got frame type {kind}")
        return self.missing <= 0

    def hand_over(self) -> None:
        body = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        self.sink(self.tag, self.redelivered, self.route, self.properties, body)


def _locked_frame_writer(connection: Connection, transport: Any) -> Callable[..., None]:
    write_frame, lock = frame_writer(connection, transport), connection.write_lock

    def write(*args: Any) -> None:
        with lock:
            write_frame(*args)

    return write


class Connection(pyamqp.Connection):  # type: ignore[misc]
    """A py-amqp connection that reads in chunks.

    ``waiter``: how the owning loop waits for readability (None: the socket's own timeout). ``sinks`` is written by the
    consumer's source and read here: (channel id, consumer tag) -> where its deliveries go.
    """

    def __init__(
        self, *args: Any, waiter: LoopWaiter | None = None, reply_timeout: float = 30.0, **kwargs: Any
    ) -> None:
        self.write_lock = threading.RLock()
        self.sinks: dict[tuple[int, bytes], DeliverySink] = {}
        self._waiter = waiter
        self._reply_timeout = reply_timeout
        self._partial: dict[int, _PartialDelivery] = {}
        self._data = b""
        self._at = 0
        kwargs.setdefault("socket_settings", {})
        kwargs["socket_settings"] = {socket.TCP_USER_TIMEOUT: USER_TIMEOUT_MS, **(kwargs["socket_settings"] or {})}
        super().__init__(*args, frame_writer=_locked_frame_writer, **kwargs)

    def write(self, data: bytes) -> None:
        """Write whole frames, in one go."""
        with self.write_lock:
            self.transport.write(data)
        self.bytes_sent += 1

    @property
    def buffered(self) -> bool:
        """Whether bytes have been read, or decrypted, that were not looked at yet."""
        return self._whole_frame_buffered() or bool(getattr(self.sock, "pending", int)())

    def blocking_read(self, timeout: float | None = None) -> bool:
        """One ordinary method, or all short-path deliveries that are there; False if a frame is not whole yet.

        py-amqp's ``drain_events`` and ``wait`` go through here. Raises socket.timeout after ``timeout`` seconds.
        """
        if self._handle_buffered():
            return True
        try:
            self._receive_within(self._reply_timeout if timeout is None else timeout)
        except TimeoutError:
            if timeout is not None:
                raise
            self.collect()
            raise RecoverableConnectionError(f"no answer from the broker within {self._reply_timeout:g} s") from None
        return self._handle_buffered()

    def read_ready(self) -> None:
        """Read what the socket has, without waiting, and handle it. For a loop that knows the socket to be readable."""
        if self._handle_buffered():
            return
        try:
            if isinstance(self.sock, ssl.SSLSocket) or hasattr(self.sock, "pending"):
                with self.transport.having_timeout(0):  # half a TLS record must not hold the loop
                    self._receive()
            else:
                self._receive()
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            return
        self._handle_buffered()

    def _receive_within(self, timeout: float) -> None:
        if self._waiter is None:
            with self.transport.having_timeout(timeout):
                self._receive()
            return
        deadline = time.monotonic() + timeout
        pending = getattr(self.sock, "pending", None)
        if pending is None or not pending():
            while not self._waiter.wait(self.sock.fileno(), max(0.0, deadline - time.monotonic())):
                if time.monotonic() >= deadline:  # else: the outbox rang; its turn comes after this reply
                    raise TimeoutError("timed out")
        self._receive()

    def _receive(self) -> None:
        transport = self.transport
        try:
            chunk = transport._quick_recv(CHUNK_BYTES)
        except TimeoutError:
            raise
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            raise TimeoutError("timed out") from None
        except OSError as exc:
            if "timed out" in str(exc):  # gevent's TLS sockets: SSLError('The read operation timed out')
                raise TimeoutError("timed out") from None
            transport.connected = False
            raise
        if not chunk:
            transport.connected = False
            raise OSError("the broker closed the connection")
        self._data = self._data[self._at :] + chunk if self._at < len(self._data) else chunk
        self._at = 0

    def _whole_frame_buffered(self) -> bool:
        left = len(self._data) - self._at
        return left > 7 and left >= 8 + _FRAME_HEADER.unpack_from(self._data, self._at)[2]

    def _handle_buffered(self) -> bool:
        """Handle buffered frames up to and including one ordinary method; True if anything was handled."""
        handled = False
        sinks, partial = self.sinks, self._partial
        while self._whole_frame_buffered():
            data = self._data
            kind, channel_id, size = _FRAME_HEADER.unpack_from(data, self._at)
            start = self._at + 7
            end = start + size
            if data[end] != _FRAME_END:
                raise UnexpectedFrame(f"expected frame end 0xce, got {data[end]:#04x}")
            self._at = end + 1
            if kind == _METHOD and data[start : start + 4] == _BASIC_DELIVER:
                tag_at = start + 5 + data[start + 4]
                sink = sinks.get((channel_id, data[start + 5 : tag_at]))
                if sink is not None:
                    tag, redelivered = _DELIVERY_TAG.unpack_from(data, tag_at)
                    partial[channel_id] = _PartialDelivery(sink, tag, bool(redelivered), data[tag_at + 9 : end])
                    continue
            elif channel_id in partial:
                delivery = partial[channel_id]
                if delivery.add(kind, data[start:end]):
                    del partial[channel_id]
                    self.bytes_recv += 1
                    handled = True
                    delivery.hand_over()
                continue
            if self.on_inbound_frame((kind, channel_id, data[start:end])):
                return True
        return handled


class Transport(pyamqp.Transport):  # type: ignore[misc]
    """kombu's pyamqp transport over our Connection."""

    Connection = Connection


class SSLTransport(pyamqp.SSLTransport):  # type: ignore[misc]
    """The same over TLS."""

    Connection = Connection
