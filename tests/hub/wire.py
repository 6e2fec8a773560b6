"""HTTP of the test Hub: requests, replies, routes, a log of requests, and faults on demand."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

DROP = ("request", "response")


@dataclass(eq=False)
class Request:
    """One request as it arrived; `status` is 0 until a reply was sent, and stays 0 if none was."""

    method: str
    target: str  # path and query as sent
    headers: dict[str, str]  # names in lower case
    body: bytes = b""
    status: int = 0

    @property
    def path(self) -> str:
        """Path without the query, still quoted: a revision may contain a quoted slash."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)

    @property
    def token(self) -> str:
        """The bearer token, or nothing."""
        return self.headers.get("authorization", "").removeprefix("Bearer ").strip()

    def flag(self, name: str) -> bool:
        return self.query.get(name, ["false"])[0].lower() in ("true", "1")

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """What goes back. A body that is not bytes is sent as JSON."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def data(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class Refusal(Exception):  # noqa: N818 (no error of ours)
    """Answer with an error as the Hub words it: X-Error-Code, X-Error-Message, and JSON."""

    def __init__(self, status: int, message: str, code: str = "", **fields: Any) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.reply = Reply({"error": message, **fields}, status, headers)


@dataclass(eq=False)
class Fault:
    """What shall go wrong with the next matching requests.

    Args:
        path: Regular expression, searched in path and query.
        method: Only this method; any by default.
        status: Answer with this status instead of doing what was asked.
        times: How many matching requests are hit; -1 is all of them.
        skip: How many matching requests pass before the first is hit.
        delay: Seconds to wait before anything else.
        drop: "request" resets the connection when half of the body was read, so that nothing has
            happened. "response" does what was asked and resets it in the middle of the reply.
        gently: Close the connection that is dropped instead of resetting it. The client knows the
            difference: it resumes a download that was closed, and gives one up that was reset.
        call: Called when a hit request arrives, before its body is read; with `drop="response"`
            when all is done but the reply. It may kill the client: with `drop="request"` too, as
            otherwise a body that is on its way already may arrive whole.
        headers: Further headers of the reply, such as Retry-After; with `status` only.
    """

    path: str
    method: str = ""
    status: int = 0
    times: int = 1
    skip: int = 0
    delay: float = 0.0
    drop: str = ""
    gently: bool = False
    call: Callable[[Request], None] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    hits: int = 0

    def __post_init__(self) -> None:
        assert self.drop in ("", *DROP), self.drop

    def takes(self, request: Request) -> bool:
        """Whether this request is hit; counts it."""
        if self.method not in ("", request.method) or not re.search(self.path, request.target):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times == 0:
            return False
        self.times -= 1
        self.hits += 1
        return True


class Routes:
    """Regular expressions of paths and the functions that answer them; groups arrive unquoted."""

    def __init__(self) -> None:
        self._routes: list[tuple[str, re.Pattern[str], Callable[..., Reply]]] = []

    def __call__(self, methods: str, pattern: str) -> Callable[[Any], Any]:
        def add(function: Callable[..., Reply]) -> Callable[..., Reply]:
            for method in methods.split():
                self._routes.append((method, re.compile(pattern), function))
            return function

        return add

    def answer(self, owner: Any, request: Request) -> Reply | None:
        """Call the first route that fits with owner and request; None where none does."""
        for method, pattern, function in self._routes:
            found = pattern.fullmatch(request.path) if method == request.method else None
            if found:
                groups = {key: unquote(value or "") for key, value in found.groupdict().items()}
                try:
                    return function(owner, request, **groups)
                except Refusal as refusal:
                    return refusal.reply
        return None


class Server(ThreadingHTTPServer):
    """One port on 127.0.0.1 whose requests are answered by `answer`."""

    daemon_threads = True
    request_queue_size = 64

    lock = threading.Lock()  # of the log and the faults, which several ports may share

    def __init__(
        self,
        answer: Callable[[Request], Reply],
        requests: list[Request],
        faults: list[Fault],
    ) -> None:
        self.answer, self.requests, self.faults = answer, requests, faults
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that were killed leave broken connections behind; that is what tests want."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `Hub.requests` is the log."""

    def _handle(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers)
        with self.server.lock:
            self.server.requests.append(request)
            fault = next((fault for fault in self.server.faults if fault.takes(request)), None)
        if fault is None:
            request.body = self._read()
            self._send(request, self.server.answer(request))
            return
        time.sleep(fault.delay)
        if fault.call and fault.drop != "response":
            fault.call(request)
        if fault.drop == "request":
            request.body = self._read(half=True)
            self._drop(fault.gently)
            return
        request.body = self._read()
        if fault.status:
            reply = Refusal(fault.status, f"injected {fault.status}").reply
            reply.headers |= fault.headers
        else:
            reply = self.server.answer(request)
        if fault.drop != "response":
            self._send(request, reply)
            return
        if fault.call:
            fault.call(request)
        with suppress(OSError):
            self._send(request, reply, half=True)
        self._drop(fault.gently)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def _read(self, half: bool = False) -> bytes:
        """The body, or about half of it; raises ConnectionError where the client is gone."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
                if half:
                    return body
            self.rfile.readline()
            return body
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length // 2 if half else length)
        if len(body) < length and not half:
            raise ConnectionError("the client went away in the middle of the body")
        return body

    def _send(self, request: Request, reply: Reply, half: bool = False) -> None:
        data = reply.data()
        if half and (not data or request.method == "HEAD"):
            return
        request.status = 0 if half else reply.status
        self.send_response(reply.status)
        headers = {"Content-Type": "application/json; charset=utf-8", **reply.headers}
        if isinstance(reply.body, bytes) and "Content-Type" not in reply.headers:
            headers["Content-Type"] = "application/octet-stream"
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if request.method != "HEAD":
            self.wfile.write(data[: len(data) // 2] if half else data)

    def _drop(self, gently: bool) -> None:
        """Close the connection as a server does that ends, or reset it as a broken network does."""
        self.close_connection = True
        if not gently:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.rfile.close()
        self.connection.close()
