"""A Hugging Face Hub on this machine, which the real huggingface_hub and datasets talk to.

    with Hub(tmp_path) as hub:
        hub.api().create_repo("user/name", repo_type="dataset", private=True)
        hub.faults.append(Fault("/commit/", status=503))
        hub.run("import datasets; datasets.load_dataset('user/name')", home=tmp_path / "home")
        hub.repos["user/name"].files()

It knows datasets only. What differs from the Hub: it trusts the hashes of xorbs and chunks (the
sha256 of files it does check), an object that came through LFS stays outside of Xet, and it lacks
multipart LFS, pull requests, .gitignore, and version 2 of Xet's routes, without which hf_xet falls
back to version 1.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from huggingface_hub import HfApi

from tests.hub import api, transfer, xet
from tests.hub.store import Blobs, Repo, Upload
from tests.hub.wire import Fault, Refusal, Reply, Request, Routes, Server

USER = "user"

XET_TOKEN_SECONDS = 3600


class Hub:
    """A Hub at `url` until the `with` block ends.

    Attributes:
        token, read_token: The user's, with and without the right to write.
        other_token: Somebody else's.
        repos: Repositories by "user/name".
        requests: All requests so far, in the order in which they arrived.
        faults: What shall go wrong; the first fault that takes a request is applied.
        uploads: Data that has arrived at the LFS store and at the Xet store.
        errors: What this server itself stumbled over; leaving the `with` block raises the first.
        page_size: Entries in a page of a listing.
    """

    def __init__(self, folder: Path) -> None:
        self.token, self.read_token, self.other_token = "hf_write", "hf_read", "hf_other"
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.uploads: list[Upload] = []
        self.errors: list[Exception] = []
        self.page_size = 1000
        self.blobs = Blobs(folder / "blobs")
        self._secret = secrets.token_hex()
        self._xet_tokens: dict[str, tuple[str, float]] = {}  # the right, and until when
        self._hub = Server(self._answer, self.requests, self.faults)
        # data lies on another host than the Hub, one that must not see the user's token
        self._storage = Server(self._answer, self.requests, self.faults)
        self.url, self.storage_url = self._hub.url, self._storage.url
        self.cas = xet.Cas(self.storage_url, self.blobs, self.uploads, self._xet_may)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._hub.stop()
        self._storage.stop()
        if self.errors and kind is None:
            raise self.errors[0]

    @property
    def stored_bytes(self) -> int:
        """Bytes of data that arrived and were new: LFS objects, and xorbs as compressed."""
        return sum(upload.bytes for upload in self.uploads if upload.new and upload.kind != "shard")

    def seen(self, method: str, part: str) -> list[Request]:
        """Requests of this method whose path or query has this part."""
        return [r for r in list(self.requests) if r.method == method and part in r.target]

    # ---- the client's side

    def api(self, token: str | bool | None = None) -> HfApi:
        """A client in this process, by default with the token that may write; False: without any.

        Whether it uses Xet, and where Xet keeps its cache, is set for the whole process when
        huggingface_hub is imported: use `run` where that matters.
        """
        return HfApi(endpoint=self.url, token=self.token if token is None else token)

    def environment(
        self, home: Path, token: str | None = None, xet: bool = True, **more: str
    ) -> dict[str, str]:
        """The environment of a process that shall use this Hub, and no other cache than home."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        ours = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": self.token if token is None else token,
            "HF_HUB_DISABLE_XET": str(int(not xet)),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        if not ours["HF_TOKEN"]:
            del ours["HF_TOKEN"]
        return {**kept, **ours, **more}

    def run(
        self,
        code: str,
        home: Path,
        *arguments: str,
        token: str | None = None,
        xet: bool = True,
        **more: str,
    ) -> str:
        """What Python prints that runs this code with `environment`; fails where it fails."""
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=self.environment(home, token, xet, **more),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    # ---- who may do what

    def user(self, request: Request) -> tuple[str, bool]:
        """Who asks (nobody: empty), and whether the token may write.

        Raises:
            Refusal: The token is not one of ours.
        """
        known = {
            "": ("", False),
            self.token: (USER, True),
            self.read_token: (USER, False),
            self.other_token: ("other", True),
        }
        if request.token not in known:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return known[request.token]

    def repo(self, request: Request, name: str, write: bool = False) -> Repo:
        """The repository, if the request may read it, or write to it."""
        user, may_write = self.user(request)
        owner = name.split("/")[0]
        repo = self.repos.get(name)
        if repo is None or (repo.private and user != owner):
            if user:
                raise Refusal(404, "Repository not found", "RepoNotFound")
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        if write and not user:
            raise Refusal(401, "Invalid username or password.")
        if write and not (may_write and user == owner):
            raise Refusal(403, "Forbidden: you don't have write access to this repository")
        return repo

    def sign(self, name: str) -> str:
        """What makes an address of the storage usable without a token."""
        return hashlib.sha256(f"{self._secret} {name}".encode()).hexdigest()[:32]

    def xet_token(self, right: str) -> tuple[str, int]:
        """A new token for the Xet store, and when it expires, Unix seconds."""
        token, end = f"xet_{right}_{secrets.token_hex(8)}", int(time.time()) + XET_TOKEN_SECONDS
        self._xet_tokens[token] = (right, end)
        return token, end

    def _xet_may(self, token: str, right: str) -> bool:
        has, end = self._xet_tokens.get(token, ("", 0.0))
        return has in ("write", right) and time.time() < end

    def _answer(self, request: Request) -> Reply:
        tables: list[tuple[Routes, object]] = [
            (api.routes, self),
            (transfer.routes, self),
            (xet.routes, self.cas),
        ]
        try:
            replies = (routes.answer(owner, request) for routes, owner in tables)
            found = next((reply for reply in replies if reply is not None), None)
        except Exception as error:
            self.errors.append(error)
            return Refusal(500, repr(error)).reply
        return found or Refusal(404, f"no such route: {request.method} {request.path}").reply
