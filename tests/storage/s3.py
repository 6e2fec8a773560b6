"""An S3 on this machine, for tests of storage: moto behind a server that counts requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Any, Self

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

SECRET = "secret-of-the-test"  # noqa: S105 - made up


class S3:
    """A server with one bucket, until the `with` block ends.

    Attributes:
        url: Its address.
        bucket: The bucket's name; all servers of a process share moto's buckets.
        requests: Method and `Range` of each request so far.
        conditions: Whether it keeps `If-None-Match`, as S3 does; some servers overlook it.
        down: Whether it answers every request with 503.
    """

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.requests: list[tuple[str, str | None]] = []
        self.conditions, self.down = True, False
        self._app = DomainDispatcherApplication(create_backend_app)
        self._writing = threading.Lock()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.client = boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id="somebody",
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=bucket)

    @property
    def options(self) -> dict[str, str]:
        """Storage options for s3fs."""
        return {"key": "somebody", "secret": SECRET, "endpoint_url": self.url}

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a process reaches it without options."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        self.requests.append((environ["REQUEST_METHOD"], environ.get("HTTP_RANGE")))
        if self.down:
            start("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        if not self.conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if environ["REQUEST_METHOD"] == "GET":
            return self._app(environ, start)
        with self._writing:  # moto looks and then writes; S3 does both at once
            return list(self._app(environ, start))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
