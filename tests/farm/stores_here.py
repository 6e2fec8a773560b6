"""What faults of storage are tried on: an S3 on this machine, and a line to it that can be cut."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from contextlib import suppress

from tests.farm.clusters_here import die_with_parent, free_port, wait_for

BUCKET = "farm"


class Store:
    """An S3 on this machine, with one bucket."""

    def __init__(self) -> None:
        self.port = free_port()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        wait_for(lambda: _answers(self.port), what="for moto")
        import boto3

        boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id="somebody",
            aws_secret_access_key="secret",  # noqa: S106 - made up
            region_name="us-east-1",
        ).create_bucket(Bucket=BUCKET)

    def env(self, port: int | None = None) -> dict[str, str]:
        """What a process needs in its environment to reach it, by default directly."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def close(self) -> None:
        self._server.kill()
        self._server.wait()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Proxy:
    """Passes connections on to a port of this machine, until it is switched off."""

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


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
