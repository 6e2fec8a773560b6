"""The demo's web server: it listens on this machine alone, and one thread does all the work.

GET    /                                        the page
GET    /api/panoramas                           what can be opened
POST   /api/panoramas?name=…                    a picture of one's own
POST   /api/sessions                            open a panorama; lines of JSON as it is encoded
GET    /api/sessions/S/picture.jpg, views.jpg   what the page shows
POST   /api/sessions/S/objects/N                segment; lines of JSON, view by view
POST   /api/sessions/S/everything               segment everything; lines of JSON
GET    /api/sessions/S/export/FILE              masks.png, coco.json, cutouts.zip
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline import viewer
from pipeline.errors import UserError
from sap_model.demo.sessions import (
    NotFoundError,
    Sessions,
    coco_json,
    cutouts_zip,
    forget_everything,
    label_png,
    picture_jpeg,
)

PAGE = Path(__file__).parent / "page"
HOST = "127.0.0.1"
MAX_UPLOAD_BYTES = 256 * 2**20
MAX_REQUEST_BYTES = 2**20
"""Of a request that is no picture."""


class SameOrigin:
    """Refuse requests that other web pages send: a browser names their origin."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            origin, host = headers.get(b"origin"), headers.get(b"host", b"")
            if origin is not None and origin.partition(b"://")[2] != host:
                await JSONResponse({"error": "another page may not use this server"}, 403)(
                    scope, receive, send
                )
                return
        await self.app(scope, receive, send)


def make_app(sessions: Sessions, model: str) -> Starlette:
    """The web application.

    Args:
        sessions: What it works on.
        model: The model's name, for the page.
    """
    worker = ThreadPoolExecutor(1, thread_name_prefix="demo")  # one queue for all tabs

    async def work(function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(worker, function, *arguments)

    async def lines(steps: Iterator[dict[str, Any]]) -> AsyncIterator[bytes]:
        """One JSON object a line; a tab that is closed ends the work at the next step."""
        try:
            while (step := await work(next, steps, None)) is not None:
                yield (json.dumps(step) + "\n").encode()
        except UserError as error:
            yield (json.dumps({"error": str(error)}) + "\n").encode()
        except Exception:
            logging.exception("a request failed")
            text = "the server failed; its terminal shows why"
            yield (json.dumps({"error": text}) + "\n").encode()
        finally:
            worker.submit(getattr(steps, "close", lambda: None))

    def stream(steps: Iterator[dict[str, Any]]) -> StreamingResponse:
        return StreamingResponse(lines(steps), media_type="application/x-ndjson")

    async def page(request: Request) -> Response:
        return Response((PAGE / "index.html").read_bytes(), media_type="text/html")

    async def list_panoramas(request: Request) -> Response:
        return JSONResponse({"panoramas": await work(sessions.list), "model": model})

    async def upload(request: Request) -> Response:
        name = Path(request.query_params.get("name", "picture")).name[:200] or "picture"
        data = await read_body(request, MAX_UPLOAD_BYTES)
        return JSONResponse(await work(sessions.add, name, data))

    async def open_session(request: Request) -> Response:
        return stream(sessions.open(str((await read_json(request)).get("panorama"))))

    async def close_session(request: Request) -> Response:
        await work(sessions.close, request.path_params["session"])
        return Response(status_code=204)

    async def picture(request: Request) -> Response:
        opened = await work(sessions.opened, request.path_params["session"])
        return Response(await work(picture_jpeg, opened.image), media_type="image/jpeg")

    async def views(request: Request) -> Response:
        opened = await work(sessions.opened, request.path_params["session"])
        if opened.views is None:
            raise NotFoundError("the views are not ready; wait until the panorama is encoded")
        data = cv2.imencode(".jpg", opened.views[..., ::-1])[1].tobytes()
        return Response(data, media_type="image/jpeg")

    async def segment(request: Request) -> Response:
        prompt = await read_json(request)
        parameters = request.path_params
        return stream(sessions.segment(parameters["session"], parameters["object"], prompt))

    async def everything(request: Request) -> Response:
        return stream(sessions.everything(request.path_params["session"]))

    async def no_everything(request: Request) -> Response:
        opened = await work(sessions.opened, request.path_params["session"])
        await work(forget_everything, opened.session)
        return Response(status_code=204)

    async def rename(request: Request) -> Response:
        opened = await work(sessions.opened, request.path_params["session"])
        name = str((await read_json(request)).get("name", ""))[:100]
        opened.session.rename(request.path_params["object"], name)
        return Response(status_code=204)

    async def remove(request: Request) -> Response:
        opened = await work(sessions.opened, request.path_params["session"])
        opened.session.remove(request.path_params["object"])
        return Response(status_code=204)

    async def export(request: Request) -> Response:
        session = (await work(sessions.opened, request.path_params["session"])).session
        name = request.path_params["file"]
        if name == "masks.png":
            data, kind = await work(label_png, session), "image/png"
        elif name == "coco.json":
            data, kind = await work(coco_json, session, "panorama"), "application/json"
        elif name == "cutouts.zip":
            data, kind = await work(cutouts_zip, session), "application/zip"
        else:
            raise NotFoundError(f"there is no export {name}; take masks.png or coco.json")
        disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(data, media_type=kind, headers=disposition)

    async def static_viewer(request: Request) -> Response:
        path = {"js": viewer.SCRIPT, "css": viewer.STYLE}[request.path_params["kind"]]
        kind = {"js": "text/javascript", "css": "text/css"}[request.path_params["kind"]]
        return Response(path.read_bytes(), media_type=kind)

    async def on_user_error(request: Request, error: Exception) -> Response:
        status = 404 if isinstance(error, NotFoundError) else 400
        return JSONResponse({"error": str(error)}, status)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for nothing else
        return JSONResponse({"error": error.detail}, error.status_code)

    one = "/api/sessions/{session}"
    return Starlette(
        routes=[
            Route("/", page),
            Route("/static/photo-sphere-viewer.{kind}", static_viewer),
            Mount("/static", StaticFiles(directory=PAGE)),
            Route("/api/panoramas", list_panoramas),
            Route("/api/panoramas", upload, methods=["POST"]),
            Route("/api/sessions", open_session, methods=["POST"]),
            Route(one, close_session, methods=["DELETE"]),
            Route(one + "/picture.jpg", picture),
            Route(one + "/views.jpg", views),
            Route(one + "/objects/{object:int}", segment, methods=["POST"]),
            Route(one + "/objects/{object:int}", rename, methods=["PATCH"]),
            Route(one + "/objects/{object:int}", remove, methods=["DELETE"]),
            Route(one + "/everything", everything, methods=["POST"]),
            Route(one + "/everything", no_everything, methods=["DELETE"]),
            Route(one + "/export/{file}", export),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"]),
            Middleware(SameOrigin),
        ],
        exception_handlers={UserError: on_user_error, HTTPException: on_http_error},
    )


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request.

    Raises:
        UserError: It is larger than `limit` bytes, or was cut off.
    """
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise UserError(f"the upload has more than {limit // 2**20} MiB; make it smaller")
            parts.append(part)
    except ClientDisconnect:
        raise UserError("the upload was cut off; try again") from None
    return b"".join(parts)


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object of a request."""
    try:
        found = json.loads(await read_body(request, MAX_REQUEST_BYTES) or b"{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError("the request is no JSON object; send one")
    return found


def serve(sessions: Sessions, model: str, port: int = 8360, open_browser: bool = True) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C.

    Args:
        sessions: What it works on.
        model: The model's name, for the page.
        port: Where it listens; 0 takes a free port.
        open_browser: Open the page in the person's browser, where there is one.

    Raises:
        UserError: The port is in use.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        raise UserError(
            f"port {port} cannot be used ({error.strerror}); choose another, for example PORT=0"
        ) from None
    address = f"http://{HOST}:{listener.getsockname()[1]}/"
    print(f"open {address} in a browser; Ctrl-C ends the demo", flush=True)
    if open_browser:
        webbrowser.open(address)
    config = uvicorn.Config(make_app(sessions, model), log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])
