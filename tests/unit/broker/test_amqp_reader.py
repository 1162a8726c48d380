"""The chunked reader: whatever pieces the bytes come in, the same deliveries and the same ordinary methods come out."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from amqp.exceptions import UnexpectedFrame
from hypothesis import given
from hypothesis import strategies as st

from greenworker.broker.amqp.connection import Connection

CONSUMER = b"tag"


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def message(channel: int, tag: int, body: bytes, consumer: bytes = CONSUMER, split_at: int = 1000) -> bytes:
    """basic.deliver, its header without properties, its body in frames of ``split_at`` bytes."""
    method = struct.pack(">HHB", 60, 60, len(consumer)) + consumer + struct.pack(">QB", tag, tag % 2)
    route = b"\x01x\x03key"
    header = struct.pack(">HHQH", 60, 0, len(body), 0)
    pieces = [body[at : at + split_at] for at in range(0, len(body), split_at)]
    return b"".join(
        [frame(1, channel, method + route), frame(2, channel, header), *(frame(3, channel, piece) for piece in pieces)]
    )


class Chunks:
    """What stands for py-amqp's transport: hands out the bytes in the given pieces, then times out."""

    connected = True
    sock = None

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def _quick_recv(self, size: int) -> bytes:
        if not self._pieces:
            raise TimeoutError("timed out")
        return self._pieces.pop(0)

    @contextlib.contextmanager
    def having_timeout(self, timeout: float | None) -> Iterator[None]:
        yield


class Recorder:
    """A connection whose bytes come from a list; what it made of them."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.delivered: list[tuple[Any, ...]] = []
        self.methods: list[tuple[int, int, bytes]] = []
        self.connection = Connection("nowhere")
        self.connection.transport = Chunks(pieces)
        self.connection.on_inbound_frame = self._on_frame
        for channel in (1, 2):
            self.connection.sinks[channel, CONSUMER] = lambda *what, channel=channel: self.delivered.append(
                (channel, *what)
            )

    def _on_frame(self, frame: tuple[int, int, bytes]) -> bool:
        self.methods.append(frame)
        return frame[0] == 1

    def read_all(self) -> None:
        while True:
            try:
                self.connection.drain_events(timeout=0.01)
            except TimeoutError:
                return


bodies = st.binary(max_size=40)
events = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), st.integers(1, 2), bodies),
        st.tuples(st.just("method"), st.integers(0, 2), bodies),
        st.tuples(st.just("heartbeat"), st.just(0), st.just(b"")),
    ),
    max_size=12,
)


@given(events, st.data())
def test_any_pieces(events: list[tuple[str, int, bytes]], data: st.DataObject) -> None:
    stream, deliveries, methods = b"", [], []
    for tag, (kind, channel, payload) in enumerate(events, 1):
        if kind == "deliver":
            stream += message(channel, tag, payload, split_at=data.draw(st.integers(1, 50)))
            deliveries.append((channel, tag, tag % 2 == 1, b"\x01x\x03key", b"\0\0", payload))
        elif kind == "method":
            stream += frame(1, channel, b"\0\x0a\0\x0a" + payload)
            methods.append((1, channel, b"\0\x0a\0\x0a" + payload))
        else:
            stream += frame(8, 0, b"")
            methods.append((8, 0, b""))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    pieces = [stream[left:right] for left, right in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    recorder = Recorder([piece for piece in pieces if piece])
    recorder.read_all()
    assert recorder.delivered == deliveries
    assert recorder.methods == methods
    assert not recorder.connection.buffered


def test_one_ordinary_method_a_call() -> None:
    """py-amqp's wait looks for its reply after each."""
    recorder = Recorder([frame(1, 1, b"\0\x0a\0\x0a1") + message(1, 1, b"x") + frame(1, 1, b"\0\x0a\0\x0a2")])
    recorder.connection.drain_events(timeout=1)
    assert (len(recorder.methods), len(recorder.delivered)) == (1, 0)
    assert recorder.connection.buffered
    recorder.connection.drain_events(timeout=1)
    assert (len(recorder.methods), len(recorder.delivered)) == (2, 1)


def test_deliveries_to_others_are_py_amqps() -> None:
    stream = message(1, 1, b"body", consumer=b"pidbox")
    recorder = Recorder([stream])
    recorder.read_all()
    assert recorder.delivered == []
    assert [kind for kind, _, _ in recorder.methods] == [1, 2, 3]


def test_a_sink_that_reads_on_loses_nothing() -> None:
    """A delivery's handler may wait for a reply, which reads further deliveries from within."""
    stream = message(1, 1, b"first") + frame(1, 1, b"\0\x0a\0\x0areply") + message(1, 2, b"second")
    recorder = Recorder([stream[:-3], stream[-3:]])
    seen: list[int] = []

    def sink(tag: int, *rest: object) -> None:
        seen.append(tag)
        if tag == 1:
            recorder.connection.drain_events(timeout=1)

    recorder.connection.sinks[1, CONSUMER] = sink
    recorder.read_all()
    assert seen == [1, 2]
    assert len(recorder.methods) == 1


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (struct.pack(">BHI", 1, 0, 4) + b"abcd\x00", "frame end"),
        (b"HTTP/1.1 400 Bad Request\r\n", "frame of at most"),
        (message(1, 1, b"body")[:30] + frame(1, 1, b"\0\x0a\0\x0a"), "content frame"),
    ],
)
def test_bytes_that_are_no_amqp(stream: bytes, expected: str) -> None:
    if expected == "content frame":
        method_end = message(1, 1, b"body").index(b"\xce") + 1
        stream = message(1, 1, b"body")[:method_end] + frame(1, 1, b"\0\x0a\0\x0a")
    recorder = Recorder([stream])
    with pytest.raises(UnexpectedFrame, match=expected):
        recorder.read_all()
