"""A Hugging Face Hub on this machine, for the real huggingface_hub, datasets and hf_xet.

    with Hub() as hub:
        hub.api().create_repo("user/name", repo_type="dataset", private=True)
        hub.faults.append(Fault("/commit/", status=503))
        hub.run("import datasets; datasets.load_dataset('user/name')", home=tmp_path / "home")
        hub.repos["user/name"].files()

It has what publishing and reading a dataset or a model need: one branch, no pull requests, no pages
of listings, no multipart uploads. Names of datasets and models are not kept apart.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from huggingface_hub import HfApi
from werkzeug.wrappers import Response

from tests.hub import xet
from tests.hub.card import card_errors, read_metadata
from tests.hub.http import Fault, RefusedError, Request, Server, part, reply

USER = "user"
LFS_SUFFIXES = (".arrow", ".bin", ".jpg", ".npy", ".parquet", ".png", ".webp", ".zip")
"""Some suffixes in the .gitattributes of a new dataset."""


class Upload(NamedTuple):
    """Data that arrived: an LFS object (key: its sha256), or a xorb of Xet."""

    kind: str  # "lfs" or "xorb"
    key: str
    bytes: int
    new: bool


@dataclass(frozen=True)
class Entry:
    """A file in a commit; an LFS file also has the sha256 of its content."""

    data: bytes
    sha256: str = ""

    @property
    def oid(self) -> str:
        blob = b"blob %d\0" % len(self.data) + self.data
        return hashlib.sha1(blob, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Commit:
    """All files after a commit."""

    oid: str
    title: str
    entries: dict[str, Entry] = field(repr=False)


class Repo:
    """A repository with a single branch."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.commits: list[Commit] = []
        self.commit("initial commit", {".gitattributes": Entry(b"*.parquet filter=lfs\n")})

    def commit(self, title: str, entries: dict[str, Entry]) -> Commit:
        self.commits.append(Commit(secrets.token_hex(20), title, entries))
        return self.commits[-1]

    def at(self, revision: str) -> Commit:
        for commit in reversed(self.commits):
            if revision in ("main", commit.oid):
                return commit
        raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: entry.data for path, entry in sorted(self.at(revision).entries.items())}


class Hub:
    """A Hub at `url` until the `with` block ends.

    Attributes:
        token, read_token: The user's tokens with and without write permission.
        other_token: The token of another user.
        repos: Repositories by name.
        requests: All requests in order of arrival.
        faults: Faults to inject; the first that takes a request is applied.
        uploads: Data that arrived at the LFS store and the Xet store.
        errors: Exceptions of this server; the end of the `with` block raises the first.
    """

    def __init__(self) -> None:
        self.token, self.read_token, self.other_token = "hf_write", "hf_read", "hf_other"
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.uploads: list[Upload] = []
        self.errors: list[Exception] = []
        self.blobs: dict[str, bytes] = {}  # by sha256
        self.xorbs: dict[str, xet.Xorb] = {}
        self.xet_files: dict[str, list[xet.Term]] = {}
        self.xet_hashes: dict[str, str] = {}  # by sha256
        self._secret = secrets.token_hex()
        self._hub = Server(self._answer, self.requests, self.faults)
        # as on the real Hub, data is on another host, which must not see the user's token
        self._storage = Server(self._answer, self.requests, self.faults)
        self.url, self.storage_url = self._hub.url, self._storage.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._hub.stop()
        self._storage.stop()
        if self.errors and kind is None:
            raise self.errors[0]

    # ---- clients

    def api(self, token: str | bool | None = None) -> HfApi:
        """A client in this process, by default with the write token; False: without a token."""
        return HfApi(endpoint=self.url, token=self.token if token is None else token)

    def environment(self, home: Path, token: str | None = None, xet: bool = True) -> dict[str, str]:
        """Environment of a process that uses this Hub, with its caches in `home`."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        return {
            **kept,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": token or self.token,
            "HF_HUB_DISABLE_XET": str(int(not xet)),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def run(self, code: str, home: Path, *arguments: str, **options: Any) -> str:
        """The output of a Python process with `environment(home, **options)`."""
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=self.environment(home, **options),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    # ---- data and permissions

    def add_blob(self, data: bytes, sha256: str) -> bool:
        """Keep a content; whether it is new. Refused if it has another sha256."""
        if hashlib.sha256(data).hexdigest() != sha256:
            raise RefusedError(400, "the content has another sha256")
        new = sha256 not in self.blobs
        self.blobs[sha256] = data
        return new

    def note_upload(self, kind: str, key: str, data: bytes, new: bool) -> None:
        self.uploads.append(Upload(kind, key, len(data), new))

    def sign(self, text: str) -> str:
        """A signature of an address that needs no token."""
        return hashlib.sha256(f"{self._secret} {text}".encode()).hexdigest()

    def demand(self, request: Request, right: str) -> None:
        """Refuse a request to the Xet store without a valid Xet token."""
        if request.token not in (self.sign("write"), self.sign(right)):
            raise RefusedError(401, "invalid Xet token")

    def user(self, request: Request) -> tuple[str, bool]:
        """The user of a request (empty: none), and whether the token may write."""
        known = {
            "": ("", False),
            self.token: (USER, True),
            self.read_token: (USER, False),
            self.other_token: ("other", True),
        }
        if request.token not in known:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return known[request.token]

    def repo(self, request: Request, name: str, write: bool = False) -> Repo:
        """A repository that the request may read, or write to."""
        user, may_write = self.user(request)
        repo = self.repos.get(name)
        if repo is None or (repo.private and user != name.split("/")[0]):
            status = 404 if user else 401
            raise RefusedError(status, "Repository not found", "RepoNotFound")
        if write and not (may_write and user == name.split("/")[0]):
            raise RefusedError(403, f"403 Forbidden: no write access to {name}")
        return repo

    def _answer(self, request: Request) -> Response:
        try:
            for methods, pattern, function in ROUTES:
                found = re.fullmatch(pattern, request.path)
                if found and request.method in methods.split():
                    groups = {key: value or "" for key, value in found.groupdict().items()}
                    return function(self, request, **groups)
        except RefusedError as refused:
            return refused.response
        except Exception as error:
            self.errors.append(error)
            return RefusedError(500, repr(error)).response
        return RefusedError(404, f"no such route: {request.method} {request.path}").response


# ---- users, repositories, listings ---------------------------------------------------------------


def whoami(hub: Hub, request: Request) -> Response:
    user, write = hub.user(request)
    if not user:
        raise RefusedError(401, "Invalid username or password.")
    auth = {"type": "access_token", "accessToken": {"role": "write" if write else "read"}}
    return reply({"type": "user", "id": user, "name": user, "orgs": [], "auth": auth})


def validate_card(hub: Hub, request: Request) -> Response:
    """Called by `create_commit` before it uploads a README.md."""
    errors = [{"message": message} for message in card_errors(request.get_json()["content"])]
    return reply({"errors": errors, "warnings": []}, 400 if errors else 200)


def create(hub: Hub, request: Request) -> Response:
    asked, (user, write) = request.get_json(), hub.user(request)
    owner = asked.get("organization") or user
    name = f"{owner}/{asked['name']}"
    if not write or owner != user:
        raise RefusedError(403 if user else 401, f"no right to create a dataset for {owner!r}")
    url = f"{hub.url}/datasets/{name}"
    if name in hub.repos:
        raise RefusedError(409, "You already created this dataset repo", url=url)
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    hub.repos[name] = Repo(private)
    return reply({"url": url, "name": name, "id": name})


def delete(hub: Hub, request: Request) -> Response:
    asked = request.get_json()
    name = f"{asked.get('organization') or hub.user(request)[0]}/{asked['name']}"
    hub.repo(request, name, write=True)
    del hub.repos[name]
    return reply({})


def info(hub: Hub, request: Request, name: str, revision: str = "main") -> Response:
    repo = hub.repo(request, name)
    commit = repo.at(revision or "main")
    card = commit.entries.get("README.md")
    about = {
        "sha": commit.oid,
        "private": repo.private,
        "cardData": read_metadata(card.data.decode()) if card else None,
        "siblings": [{"rfilename": path} for path in sorted(commit.entries)],
    }
    return reply({"_id": name, "id": name, **about})


def tree(hub: Hub, request: Request, name: str, revision: str, path: str = "") -> Response:
    recursive = request.args.get("recursive", "false").lower() in ("true", "1")
    found = _listing(hub, hub.repo(request, name).at(revision), path)
    depth = path.count("/") + 1 if path else 0
    return reply([one for one in found if recursive or one["path"].count("/") == depth])


def paths_info(hub: Hub, request: Request, name: str, revision: str) -> Response:
    wanted = request.form.getlist("paths")
    found = _listing(hub, hub.repo(request, name).at(revision), "")
    return reply([one for one in found if one["path"] in wanted])


def _listing(hub: Hub, commit: Commit, folder: str) -> list[dict[str, Any]]:
    """All files and folders below a folder, by path."""
    start = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for path, entry in commit.entries.items():
        if not path.startswith(start):
            continue
        for parent in list(Path(path).parents)[:-1]:
            if (name := parent.as_posix()).startswith(start):
                found[name] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
        found[path] = {"type": "file", "oid": entry.oid, "size": len(entry.data), "path": path}
        if entry.sha256:
            size = len(entry.data)
            found[path]["lfs"] = {"oid": entry.sha256, "size": size, "pointerSize": 130}
            if entry.sha256 in hub.xet_hashes:
                found[path]["xetHash"] = hub.xet_hashes[entry.sha256]
    if folder and not found:
        raise RefusedError(404, f"{folder} does not exist", "EntryNotFound")
    return [found[path] for path in sorted(found)]


# ---- uploads -------------------------------------------------------------------------------------


def preupload(hub: Hub, request: Request, name: str, revision: str) -> Response:
    """Which files are LFS, and the hash of those that exist."""
    entries = hub.repo(request, name, write=True).at(revision).entries
    answers = []
    for file in request.get_json()["files"]:
        sample = base64.b64decode(file.get("sample", ""))
        lfs = file["path"].endswith(LFS_SUFFIXES) or b"\0" in sample
        mode = "lfs" if lfs else "regular"
        answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        old = entries.get(file["path"])
        if old and bool(old.sha256) == lfs:
            answers[-1]["oid"] = old.sha256 or old.oid
    return reply({"files": answers})


def lfs_batch(hub: Hub, request: Request, name: str) -> Response:
    """Where to upload each object; an object that exists has no action."""
    hub.repo(request, name, write=True)
    objects = []
    for wanted in request.get_json()["objects"]:
        oid = wanted["oid"]
        objects.append({"oid": oid, "size": wanted["size"], "authenticated": True})
        if oid not in hub.blobs:
            href = f"{hub.storage_url}/lfs/{oid}?signature={hub.sign(oid)}"
            objects[-1]["actions"] = {"upload": {"href": href}}
    return reply({"transfer": "basic", "objects": objects})


def lfs_put(hub: Hub, request: Request, oid: str) -> Response:
    _check_signature(hub, request, oid)
    hub.note_upload("lfs", oid, request.get_data(), hub.add_blob(request.get_data(), oid))
    return reply()


def commit(hub: Hub, request: Request, name: str, revision: str) -> Response:
    """All operations of a commit, or none."""
    repo = hub.repo(request, name, write=True)
    header, *lines = [json.loads(line) for line in request.get_data().splitlines() if line.strip()]
    head = repo.at(revision)
    if header["value"].get("parentCommit") not in (None, head.oid):
        raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
    entries = dict(head.entries)
    for line in lines:
        path, value = line["value"]["path"], line["value"]
        if line["key"] == "deletedFile":
            del entries[path]
        elif line["key"] == "lfsFile":
            if value["oid"] not in hub.blobs:
                raise RefusedError(400, f"an LFS pointer pointed to a missing file: {path}")
            entries[path] = Entry(hub.blobs[value["oid"]], value["oid"])
        else:
            entries[path] = Entry(base64.b64decode(value["content"]))
    done = repo.commit(header["value"]["summary"], entries)
    url = f"{hub.url}/datasets/{name}/commit/{done.oid}"
    return reply({"success": True, "commitOid": done.oid, "commitUrl": url, "hookOutput": ""})


# ---- downloads -----------------------------------------------------------------------------------


def resolve(hub: Hub, request: Request, name: str, revision: str, path: str) -> Response:
    """A regular file, or the address of an LFS file."""
    found = hub.repo(request, name).at(revision)
    headers, entry = {"X-Repo-Commit": found.oid}, found.entries.get(path)
    if entry is None:
        refused = RefusedError(404, "Entry not found", "EntryNotFound")
        refused.response.headers.update(headers)
        raise refused
    if not entry.sha256:
        return part(request, entry.data, {"ETag": f'"{entry.oid}"', **headers})
    headers |= {
        "Location": f"{hub.storage_url}/cdn/{entry.sha256}?signature={hub.sign(entry.sha256)}",
        "X-Linked-Size": str(len(entry.data)),
        "X-Linked-ETag": f'"{entry.sha256}"',
    }
    if entry.sha256 in hub.xet_hashes:
        route = f"{hub.url}/api/datasets/{name}/xet-read-token/{found.oid}"
        headers["X-Xet-Hash"] = hub.xet_hashes[entry.sha256]
        headers["Link"] = f'<{route}>; rel="xet-auth"'
    return reply(status=302, headers=headers)


def cdn(hub: Hub, request: Request, oid: str) -> Response:
    """The data of an LFS file."""
    _check_signature(hub, request, oid)
    return part(request, hub.blobs[oid], {"ETag": f'"{oid}"'})


def xet_token(hub: Hub, request: Request, name: str, right: str, revision: str) -> Response:
    """A token for the Xet store."""
    hub.repo(request, name, write=right == "write").at(revision)
    token, end = hub.sign(right), int(time.time()) + 3600
    headers = {
        "X-Xet-Cas-Url": hub.storage_url,
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(end),
    }
    return reply({"casUrl": hub.storage_url, "accessToken": token, "exp": end}, headers=headers)


def _check_signature(hub: Hub, request: Request, oid: str) -> None:
    if request.args.get("signature") != hub.sign(oid):
        raise RefusedError(403, "this address is not signed")


API = r"/api/(datasets|models)/(?P<name>[^/]+/[^/]+)"
GIT = r"(/datasets)?/(?P<name>[^/]+/[^/]+)"

ROUTES = (
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/validate-yaml", validate_card),
    ("POST", "/api/repos/create", create),
    ("DELETE", "/api/repos/delete", delete),
    ("GET", API + r"(/revision/(?P<revision>[^/]+))?", info),
    ("GET", API + r"/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", tree),
    ("POST", API + r"/paths-info/(?P<revision>[^/]+)", paths_info),
    ("POST", API + r"/preupload/(?P<revision>[^/]+)", preupload),
    ("POST", API + r"/commit/(?P<revision>[^/]+)", commit),
    ("GET", API + r"/xet-(?P<right>read|write)-token/(?P<revision>[^/]+)", xet_token),
    ("POST", GIT + r"\.git/info/lfs/objects/batch", lfs_batch),
    ("GET HEAD", GIT + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", lfs_put),
    ("GET HEAD", r"/cdn/(?P<oid>[0-9a-f]{64})", cdn),
    ("POST", r"/v1/xorbs/default/(?P<xorb>[0-9a-f]{64})", xet.put_xorb),
    ("POST", r"/v1/shards", xet.put_shard),
    ("GET", r"/v1/reconstructions/(?P<name>[0-9a-f]{64})", xet.reconstruct),
    ("GET", r"/xorbs/(?P<xorb>[0-9a-f]{64})", xet.get_xorb),
)
