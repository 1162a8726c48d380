"""A TCP proxy that stands between a client and a broker and can cut, freeze and resume what goes through it."""

from __future__ import annotations

import socket
import struct
import threading
from types import TracebackType

CHUNK_BYTES = 65_536
CONNECT_TIMEOUT = 5.0
CLOSE_TIMEOUT = 5.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


class Proxy:
    """Listens on ``port`` of 127.0.0.1 (0: a free one) and passes everything on to ``target_port`` there."""

    def __init__(self, target_port: int, port: int = 0) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._refusing = False
        self.accepted = 0  # connections so far
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def freeze(self) -> None:
        """Pass nothing on, in neither direction; connections stay open, new ones are taken and frozen too."""
        self._flowing.clear()

    def resume(self) -> None:
        """Pass on again, with what came meanwhile first."""
        self._flowing.set()

    def cut(self) -> None:
        """Reset all connections. New ones are taken, unless ``refuse`` was called."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for end in sockets:
            _reset(end)

    def refuse(self, refusing: bool = True) -> None:
        """Reset new connections as soon as they come (True), or take them again (False)."""
        self._refusing = refusing

    def close(self) -> None:
        """Stop listening and cut everything. Harmless twice."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # close() alone would leave accept() waiting
        except OSError:
            return
        self._acceptor.join(CLOSE_TIMEOUT)
        self._listener.close()
        self._flowing.set()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self._refusing:
                _reset(client)
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port), timeout=CONNECT_TIMEOUT)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            with self._lock:
                self._sockets |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while chunk := source.recv(CHUNK_BYTES):
                self._flowing.wait()
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # cut, or one end hung up: the other direction's thread, or close(), does the rest


def _reset(end: socket.socket) -> None:
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RD)  # wakes the thread that reads it
    except OSError:
        pass  # the peer was faster
    end.close()
