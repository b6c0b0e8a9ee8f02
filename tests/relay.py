"""A TCP relay that loses a server's answer: the request is done, nobody hears of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

CHUNK = 1 << 16


class Relay:
    """Hands bytes on between its own port and a server's.

    Where ``drop_answer`` says so of a connection's last request (its first bytes), the answer
    is read and thrown away, and the connection closed; ``times`` at most.
    """

    def __init__(self, url: str, drop_answer: Callable[[bytes], bool], times: int) -> None:
        host = urlsplit(url)
        self._server = (str(host.hostname), int(host.port or 80))
        self._drop, self._times = drop_answer, times
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.dropped = 0

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            upstream = socket.create_connection(self._server)
            latest = [b""]
            threading.Thread(
                target=self._requests, args=(client, upstream, latest), daemon=True
            ).start()
            threading.Thread(
                target=self._answers, args=(upstream, client, latest), daemon=True
            ).start()

    def _requests(
        self, client: socket.socket, upstream: socket.socket, latest: list[bytes]
    ) -> None:
        while data := _receive(client):
            if data[:8].split(b" ")[0] in {b"GET", b"PUT", b"POST", b"HEAD", b"DELETE"}:
                latest[0] = data
            upstream.sendall(data)
        _end(upstream)

    def _answers(self, upstream: socket.socket, client: socket.socket, latest: list[bytes]) -> None:
        while data := _receive(upstream):
            if self.dropped < self._times and self._drop(latest[0]):
                self.dropped += 1
                break
            client.sendall(data)
        _end(client)
        _end(upstream)


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(CHUNK)
    except OSError:
        return b""


def _end(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        connection.close()
