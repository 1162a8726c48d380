"""kombu's pyamqp connection with a reader that takes whole chunks, and a short path for deliveries to our consumers.

Rules this file keeps (each was paid for with a dead connection):

* Everything that is not a delivery to one of our own consumers goes to py-amqp's ``on_inbound_frame``, unchanged.
* One ordinary method a call: py-amqp's ``wait`` looks for its reply after each. Looping on over a buffered reply would
  drop it, and the connection would die on its heartbeat. Only over short-path deliveries the reader loops on.
* Every write takes the lock that the frame writer takes, or frames of two greenlets mix (FrameError 501).
* No timeout on the socket where a waiter is given: it would hit another greenlet's write in mid-frame. Wait for
  readability, then read. Without a waiter (a producer's connection, used by one greenlet at a time) the socket's
  timeout serves.
* No wait is endless: a reply that does not come within ``reply_timeout`` is a lost connection. A write is bounded by
  TCP_USER_TIMEOUT, which the kernel keeps.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from amqp import spec
from amqp.exceptions import AMQPError, RecoverableConnectionError, UnexpectedFrame
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

    __slots__ = ("body", "chunks", "missing", "properties", "redelivered", "route", "sink", "tag")

    def __init__(self, sink: DeliverySink, tag: int, redelivered: bool, route: bytes) -> None:
        self.sink = sink
        self.tag = tag
        self.redelivered = redelivered
        self.route = route
        self.properties = b""
        self.body = b""
        self.chunks: list[bytes] | None = None  # of a body in more than one frame
        self.missing = 0

    def add(self, kind: int, payload: bytes) -> bool:
        """Take the next frame; True when the message is whole."""
        if kind == _CONTENT_HEADER:
            self.missing = _BODY_SIZE.unpack_from(payload, 4)[0]
            self.properties = payload[12:]
        elif kind != _BODY:
            raise UnexpectedFrame(f"expected a content frame of delivery {self.tag}, got frame type {kind}")
        else:
            self.missing -= len(payload)
            if self.missing == 0 and self.chunks is None:
                self.body = payload
                return True
            self.chunks = self.chunks or []
            self.chunks.append(payload)
        if self.missing > 0:
            return False
        if self.chunks is not None:
            self.body = b"".join(self.chunks)
        return True


def _locked_frame_writer(connection: Connection, transport: Any) -> Callable[..., None]:
    write_frame, lock = frame_writer(connection, transport), connection.write_lock

    def write(*args: Any) -> None:
        with lock:
            write_frame(*args)

    return write


class Connection(pyamqp.Connection):
    """A py-amqp connection that reads in chunks.

    ``waiter``: how the owning loop waits for readability (None: the socket's own timeout). ``sinks`` is written by the
    consumer's channels and read here: (channel id, consumer tag) -> where its deliveries go. ``reply_timeout`` is how
    many seconds a reply of the broker may take.
    """

    def __init__(
        self, *args: Any, waiter: LoopWaiter | None = None, reply_timeout: float = 30.0, **kwargs: Any
    ) -> None:
        self.write_lock = threading.RLock()
        self.sinks: dict[tuple[int, bytes], DeliverySink] = {}
        self.reply_timeout = reply_timeout
        self._waiter = waiter
        self._partial: dict[int, _PartialDelivery] = {}
        self._data = b""
        self._at = 0  # what of _data has been handled
        self._decrypted: Callable[[], int] | None = None  # TLS: bytes that are not on the socket any more
        kwargs["socket_settings"] = {socket.TCP_USER_TIMEOUT: USER_TIMEOUT_MS, **(kwargs.get("socket_settings") or {})}
        super().__init__(*args, frame_writer=_locked_frame_writer, **kwargs)

    @property
    def transport(self) -> Any:
        """py-amqp's socket transport. Raises RecoverableConnectionError if closed, where py-amqp's own reconnects."""
        if self._transport is None:
            raise RecoverableConnectionError("the connection is closed")
        return self._transport

    @transport.setter
    def transport(self, transport: Any) -> None:
        self._transport = transport

    def connect(self, callback: Callable[[], None] | None = None) -> Any:
        result = super().connect(callback)
        sock = self.transport.sock
        sock.settimeout(None)  # py-amqp leaves connect_timeout on TLS sockets
        self._decrypted = getattr(sock, "pending", None)
        return result

    def collect(self) -> None:
        """Close the socket, without waiting for anybody."""
        if self._transport is not None and self._transport.sock is not None:
            self._transport.sock.settimeout(0)  # TLS would wait for the peer's farewell
        super().collect()

    def leave(self) -> None:
        """Tell the broker that we go, and go, without waiting for its reply. Never raises for a broken connection."""
        try:
            if self.connected:
                self.sock.settimeout(0)
                self.send_method(spec.Connection.Close, "BsBB", (0, "", 0, 0))
        except (OSError, AMQPError):
            pass  # it is gone already, which is what was wanted
        finally:
            self.collect()

    def write(self, data: bytes) -> None:
        """Write whole frames, in one go."""
        with self.write_lock:
            self.transport.write(data)
        self.bytes_sent += 1

    # --- reading ------------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> bool:
        """Whether bytes have been read, or decrypted, that were not looked at yet."""
        data, at = self._data, self._at
        left = len(data) - at
        if left > 7 and left >= 8 + _FRAME_HEADER.unpack_from(data, at)[2]:
            return True
        return self._decrypted is not None and self._decrypted() > 0

    def drain_events(self, timeout: float | None = None) -> None:
        """Handle one ordinary method, or the short-path deliveries that are there.

        Raises TimeoutError after ``timeout`` seconds. None: RecoverableConnectionError, and the connection is closed,
        after ``reply_timeout``. Heartbeats do not make it wait longer, as they do in py-amqp.
        """
        deadline = time.monotonic() + (self.reply_timeout if timeout is None else timeout)
        try:
            while not self.blocking_read(max(0.0, deadline - time.monotonic())):
                pass
        except TimeoutError:
            if timeout is not None:
                raise
            self.collect()
            raise RecoverableConnectionError(f"no answer from the broker within {self.reply_timeout:g} s") from None

    def blocking_read(self, timeout: float | None = None) -> bool:
        """Handle what is buffered, else read once and handle that; False if that was no whole method.

        Raises TimeoutError if nothing comes within ``timeout`` seconds (None: ``reply_timeout``).
        """
        if self._handle_buffered():
            return True
        self._receive_within(self.reply_timeout if timeout is None else timeout)
        return self._handle_buffered()

    def read_ready(self) -> None:
        """Read what the socket has, without waiting, and handle it. For a loop that knows the socket to be readable."""
        if self._handle_buffered():
            return
        try:
            if self._decrypted is None:
                self._receive()
            else:
                with self.transport.having_timeout(0):  # half a TLS record must not hold the loop
                    self._receive()
        except TimeoutError:
            return
        self._handle_buffered()

    def _receive_within(self, timeout: float) -> None:
        if self._waiter is None or not self._handshake_complete:
            with self.transport.having_timeout(timeout):
                self._receive()
            return
        deadline = time.monotonic() + timeout
        if self._decrypted is None or not self._decrypted():
            fd = self.transport.sock.fileno()
            while not self._waiter.wait(fd, max(0.0, deadline - time.monotonic())):
                if time.monotonic() >= deadline:  # else: the outbox rang; its turn comes after this reply
                    raise TimeoutError("timed out")
        if self._decrypted is None:
            self._receive()
            return
        try:
            with self.transport.having_timeout(0):
                self._receive()
        except TimeoutError:
            if time.monotonic() >= deadline:
                raise

    def _receive(self) -> None:
        transport = self.transport
        try:
            chunk = transport._quick_recv(CHUNK_BYTES)
        except TimeoutError:
            raise
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise TimeoutError("timed out") from None
        except OSError as exc:
            if "timed out" in str(exc):  # gevent's TLS sockets: SSLError('The read operation timed out')
                raise TimeoutError("timed out") from None
            transport.connected = False
            raise
        if not chunk:
            transport.connected = False
            raise ConnectionResetError("the broker closed the connection")
        self._data = self._data[self._at :] + chunk if self._at < len(self._data) else chunk
        self._at = 0
        self.bytes_recv += 1  # for the heartbeat: a large body on its way is life, too

    def _handle_buffered(self) -> bool:
        """Handle buffered frames up to and including one ordinary method; True if a method was handled."""
        handled = False
        data, at, partial = self._data, self._at, self._partial
        length = len(data)
        while length - at > 7:
            kind, channel_id, size = _FRAME_HEADER.unpack_from(data, at)
            start = at + 7
            end = start + size
            if end >= length:
                if size > self.frame_max:
                    raise UnexpectedFrame(f"expected a frame of at most {self.frame_max} bytes, got one of {size}")
                break
            if data[end] != _FRAME_END:
                raise UnexpectedFrame(f"expected frame end 0xce, got {data[end]:#04x}")
            self._at = at = end + 1
            if channel_id in partial:
                delivery = partial[channel_id]
                if not delivery.add(kind, data[start:end]):
                    continue
                del partial[channel_id]
                handled = True
                delivery.sink(delivery.tag, delivery.redelivered, delivery.route, delivery.properties, delivery.body)
            elif (
                kind == _METHOD
                and data.startswith(_BASIC_DELIVER, start)
                and self._begin_delivery(channel_id, data, start, end)
            ):
                continue
            elif self.on_inbound_frame((kind, channel_id, data[start:end])):
                return True
            if self._data is not data or self._at != at:  # what was called has waited for a reply, and read on
                data, at = self._data, self._at
                length = len(data)
        return handled

    def _begin_delivery(self, channel_id: int, data: bytes, start: int, end: int) -> bool:
        """Take a basic.deliver that is for one of our sinks."""
        tag_at = start + 5 + data[start + 4]
        sink = self.sinks.get((channel_id, data[start + 5 : tag_at]))
        if sink is None:
            return False
        tag, redelivered = _DELIVERY_TAG.unpack_from(data, tag_at)
        self._partial[channel_id] = _PartialDelivery(sink, tag, redelivered == 1, data[tag_at + 9 : end])
        return True


class Transport(pyamqp.Transport):
    """kombu's pyamqp transport over our Connection."""

    Connection = Connection


class SSLTransport(pyamqp.SSLTransport):
    """The same over TLS."""

    Connection = Connection
