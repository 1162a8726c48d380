"""Compression of message bodies, both ways, by kombu's names. What one message unpacks to is bounded.

kombu's own decoders unpack without a bound (1 MB of zeros' worth of zlib is 1 GB), so only its names and its encoders'
choices are used here. Its ``gzip`` is zlib's format; real gzip is understood too.
"""

from __future__ import annotations

import bz2
import importlib.util
import lzma
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from greenworker.errors import EncodeError, MalformedMessage
from greenworker.protocol.display import bounded_text, shown

zstandard: Any = importlib.import_module("zstandard") if importlib.util.find_spec("zstandard") else None

GZIP, BZIP2, LZMA, ZSTD = "application/x-gzip", "application/x-bz2", "application/x-lzma", "application/zstd"

_CONTENT_TYPES: Mapping[str, str] = {
    "gzip": GZIP,
    "zlib": GZIP,
    "bzip2": BZIP2,
    "bzip": BZIP2,
    "bz2": BZIP2,
    "lzma": LZMA,
    "xz": LZMA,
    "zstd": ZSTD,
    "zstandard": ZSTD,
}
_ZLIB_OR_GZIP = zlib.MAX_WBITS | 32
_ZSTD_MAX_WINDOW_BYTES = 128 * 1024 * 1024
_LZMA_MAX_MEMORY_BYTES = 256 * 1024 * 1024


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


_STREAMS: Mapping[str, Callable[[], _Decompressor]] = {
    GZIP: lambda: zlib.decompressobj(_ZLIB_OR_GZIP),
    BZIP2: bz2.BZ2Decompressor,
    LZMA: lambda: lzma.LZMADecompressor(memlimit=_LZMA_MAX_MEMORY_BYTES),
}
_ENCODERS: Mapping[str, Callable[[bytes], bytes]] = {
    GZIP: zlib.compress,
    BZIP2: bz2.compress,
    LZMA: lzma.compress,
}


def compress(body: bytes, name: str) -> tuple[bytes, str]:
    """``body`` compressed, and the content type for its ``compression`` header.

    ``name`` is a name or a content type of kombu's. Raises EncodeError for one that is unknown or not installed.
    """
    content_type = _CONTENT_TYPES.get(name, name)
    if content_type == ZSTD and zstandard is not None:
        return zstandard.ZstdCompressor().compress(body), ZSTD
    encoder = _ENCODERS.get(content_type)
    if encoder is None:
        raise EncodeError(f"compression {bounded_text(name, 80)!r}: {_available()}")
    return encoder(body), content_type


def decompress(body: bytes | str, name: Any, max_bytes: int) -> bytes:
    """``body`` unpacked, at most ``max_bytes`` of it. ``name`` is the ``compression`` header.

    Raises MalformedMessage for an unknown compression, for bytes that are none of it, and where more would come out.
    """
    if isinstance(name, bytes):
        name = name.decode("ascii", "replace")
    if not isinstance(name, str):
        raise MalformedMessage(f"compression: expected a name, got {shown(name)}")
    content_type = _CONTENT_TYPES.get(name, name)
    if isinstance(body, str):
        raise MalformedMessage(f"compression {content_type}: expected bytes in the body, got text {shown(body)}")
    if content_type == ZSTD and zstandard is not None:
        return _bounded(_unpack_zstd(body, max_bytes + 1), content_type, max_bytes)
    stream = _STREAMS.get(content_type)
    if stream is None:
        raise MalformedMessage(f"compression {bounded_text(name, 80)!r}: {_available()}")
    return _bounded(_unpack(stream(), body, content_type, max_bytes), content_type, max_bytes)


def _unpack(stream: _Decompressor, body: bytes, content_type: str, max_bytes: int) -> bytes:
    try:
        unpacked = stream.decompress(body, max_bytes + 1)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, MemoryError) as exc:
        raise _broken(content_type, body, str(exc)) from None
    if len(unpacked) <= max_bytes and (not stream.eof or stream.unused_data):
        raise _broken(content_type, body, "bytes after its end" if stream.eof else "it ends too early")
    return unpacked


def _unpack_zstd(body: bytes, max_length: int) -> bytes:
    try:
        unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW_BYTES)
        unpacked: bytes = unpacker.stream_reader(body).read(max_length)
        return unpacked
    except (zstandard.ZstdError, MemoryError) as exc:
        raise _broken(ZSTD, body, str(exc)) from None


def _bounded(unpacked: bytes, content_type: str, max_bytes: int) -> bytes:
    if len(unpacked) > max_bytes:
        raise MalformedMessage(
            f"body: expected at most {max_bytes} bytes ([worker] max_body_bytes), "
            f"but it is {content_type} and unpacks to more"
        )
    return unpacked


def _broken(content_type: str, body: bytes, why: str) -> MalformedMessage:
    return MalformedMessage(f"compression {content_type}: the body is not in this format: {why}; got {shown(body)}")


def _available() -> str:
    names = sorted({*_CONTENT_TYPES} if zstandard is not None else {*_CONTENT_TYPES} - {"zstd", "zstandard"})
    hint = "" if zstandard is not None else "; zstd needs the package zstandard"
    return f"not available here, expected one of {', '.join(names)}{hint}"
