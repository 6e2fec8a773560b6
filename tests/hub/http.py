"""HTTP of the test Hub: replies, a log of requests, and faults on demand."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request as WerkzeugRequest
from werkzeug.wrappers import Response


class Request(WerkzeugRequest):
    """A request. `status` stays 0 until the reply is complete."""

    status = 0

    @property
    def target(self) -> str:
        return f"{self.path}?{self.query_string.decode()}"

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ").strip()


def reply(body: Any = b"", status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response. A body that is not bytes is sent as JSON."""
    if isinstance(body, bytes):
        return Response(body, status, headers, mimetype="application/octet-stream")
    return Response(json.dumps(body), status, headers, mimetype="application/json")


def part(request: Request, content: bytes, headers: dict[str, str] | None = None) -> Response:
    """Content, or the requested range of it."""
    response = reply(content, headers=headers)
    return response.make_conditional(request, accept_ranges=True, complete_length=len(content))


class RefusedError(Exception):
    """Answer with an error in the Hub's format: X-Error-Code, X-Error-Message and JSON."""

    def __init__(self, status: int, message: str, code: str = "", **fields: Any) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.response = reply({"error": message, **fields}, status, headers)


@dataclass(eq=False)
class Fault:
    """A fault of the next matching requests.

    Attributes:
        path: Regular expression, searched in path and query.
        status: Answer with this status instead of handling the request.
        times: Number of matching requests to hit; -1 hits all.
        skip: Number of matching requests to let through first.
        delay: Seconds to wait first.
        drop: "request" resets the connection in the middle of the request's body, so nothing
            happens. "response" handles the request and resets the connection instead of replying.
        call: Called when a hit request arrives, before its body is read.
    """

    path: str
    status: int = 0
    times: int = 1
    skip: int = 0
    delay: float = 0.0
    drop: str = ""
    call: Callable[[Request], object] = bool

    def takes(self, request: Request) -> bool:
        """Whether this request is hit; counts it."""
        if not self.times or not re.search(self.path, request.target):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class Server:
    """A port on 127.0.0.1 whose requests are answered by `answer`."""

    lock = threading.Lock()  # of the log and the faults, which servers share

    def __init__(
        self, answer: Callable[[Request], Response], requests: list[Request], faults: list[Fault]
    ) -> None:
        self._answer, self._requests, self._faults = answer, requests, faults
        self._server = make_server(
            "127.0.0.1", 0, self._app, threaded=True, request_handler=_QuietHandler
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        with self.lock:
            self._requests.append(request)
            fault = next((one for one in self._faults if one.takes(request)), Fault(""))
        time.sleep(fault.delay)
        fault.call(request)
        if fault.drop == "request":
            request.stream.read((request.content_length or 0) // 2)
            _reset(environ["werkzeug.socket"])
        request.get_data()
        if fault.status:
            response = RefusedError(fault.status, f"injected {fault.status}").response
        else:
            response = self._answer(request)
        if fault.drop == "response":
            _reset(environ["werkzeug.socket"])
        request.status = response.status_code
        return response(environ, start_response)


class _QuietHandler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:
        """Print nothing: `Hub.requests` is the log."""


def _reset(connection: socket.socket) -> None:
    """Reset a connection, as a broken network does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())
    raise ConnectionError("reset on purpose")
