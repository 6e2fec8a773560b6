"""A connection to a server of this machine that can be cut."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from tests.farm.ray_cluster import free_port


class Proxy:
    """Forwards connections to a port of this machine, until it is switched off."""

    def __init__(self, port: int) -> None:
        self.to, self.port = port, free_port()
        self._open: list[socket.socket] = []
        self._listening: socket.socket | None = None
        self.on()

    def on(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def off(self) -> None:
        """Refuse new connections and drop the others."""
        if self._listening is not None:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None
        while self._open:
            with suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):  # switched off
            while True:
                one = listening.accept()[0]
                other = socket.create_connection(("127.0.0.1", self.to))
                self._open += [one, other]
                for pair in ((one, other), (other, one)):
                    threading.Thread(target=_pass_on, args=pair, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.off()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
