"""The Hub's routes that move data: preupload, LFS, commits, downloads, and tokens for Xet."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.hub.api import API
from tests.hub.card import check_card
from tests.hub.store import LARGEST_REGULAR, Entry, Repo, Upload, under
from tests.hub.wire import Refusal, Reply, Request, Routes

if TYPE_CHECKING:
    from tests.hub.server import Hub

NAME = r"/datasets/(?P<name>[^/]+/[^/]+)"

NO_OBJECT = (
    "Your push was rejected because an LFS pointer pointed to a file that does not exist: {}"
)

routes = Routes()


@routes("POST", API + r"/preupload/(?P<revision>[^/]+)")
def preupload(hub: Hub, request: Request, name: str, revision: str) -> Reply:
    """`preupload_lfs_files` and `upload_folder`: regular or LFS, and what is there already."""
    repo = hub.repo(request, name, write=True)
    entries = repo.at(revision).entries
    answers = []
    for file in request.json()["files"]:
        path, sample = file["path"], base64.b64decode(file.get("sample", ""))
        lfs = repo.is_lfs(path, sample, file["size"], entries)
        answer = {
            "path": path,
            "uploadMode": "lfs" if lfs else "regular",
            "shouldIgnore": False,
        }
        there = entries.get(path)
        if there and bool(there.sha256) == lfs:
            answer["oid"] = there.etag
        answers.append(answer)
    return Reply({"commitOid": repo.at(revision).oid, "files": answers})


@routes("POST", NAME + r"\.git/info/lfs/objects/batch")
def lfs_batch(hub: Hub, request: Request, name: str) -> Reply:
    """Without Xet: where to put each object; an object that is there gets no action."""
    hub.repo(request, name, write=True)
    objects = []
    for wanted in request.json()["objects"]:
        oid = wanted["oid"]
        thing: dict[str, Any] = {"oid": oid, "size": wanted["size"], "authenticated": True}
        if oid not in hub.blobs:
            put = f"{hub.storage_url}/lfs/{oid}?signature={hub.sign(oid)}"
            verify = f"{hub.url}/datasets/{name}.git/info/lfs/objects/verify"
            thing["actions"] = {"upload": {"href": put}, "verify": {"href": verify}}
        objects.append(thing)
    return Reply({"transfer": "basic", "objects": objects})


@routes("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})")
def lfs_put(hub: Hub, request: Request, oid: str) -> Reply:
    """The object itself, as it is sent to a signed address."""
    _check_signature(hub, request, oid)
    new = hub.blobs.add(request.body, oid)
    hub.uploads.append(Upload("lfs", oid, len(request.body), new))
    return Reply(headers={"ETag": f'"{oid}"'})


@routes("POST", NAME + r"\.git/info/lfs/objects/verify")
def lfs_verify(hub: Hub, request: Request, name: str) -> Reply:
    """Asked after each object."""
    hub.repo(request, name, write=True)
    asked = request.json()
    if asked["oid"] not in hub.blobs or hub.blobs.size(asked["oid"]) != asked["size"]:
        raise Refusal(404, NO_OBJECT.format(asked["oid"]))
    return Reply({})


@routes("POST", API + r"/commit/(?P<revision>[^/]+)")
def commit(hub: Hub, request: Request, name: str, revision: str) -> Reply:
    """`HfApi.create_commit`: all of its operations, or none."""
    repo = hub.repo(request, name, write=True)
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    header = lines[0]["value"]
    if lines[0]["key"] != "header" or not header.get("summary"):
        raise Refusal(400, "a commit begins with its header and has a summary")
    with repo.lock:
        if revision not in repo.branches:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        parent = header.get("parentCommit")
        if parent and not repo.branches[revision].startswith(parent):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        entries = dict(repo.at(revision).entries)
        for line in lines[1:]:
            _apply(repo, entries, line["key"], line["value"])
        done = repo.commit(revision, entries, header["summary"], header.get("description", ""))
    url = f"{hub.url}/datasets/{name}/commit/{done.oid}"
    return Reply({"success": True, "commitOid": done.oid, "commitUrl": url, "hookOutput": ""})


def _apply(repo: Repo, entries: dict[str, Entry], key: str, value: dict[str, Any]) -> None:
    """Do one line of a commit to the entries."""
    path = value["path"]
    if key == "file":
        data = base64.b64decode(value["content"])
        if len(data) > LARGEST_REGULAR:
            raise Refusal(400, f"{path} is larger than 10 MiB; use LFS")
        errors, _ = check_card(data.decode()) if path == "README.md" else ([], [])
        if errors:
            raise Refusal(400, "Invalid metadata in README.md: " + "; ".join(errors))
        entries[path] = Entry(data, size=len(data))
    elif key == "lfsFile":
        oid = value["oid"]
        if oid not in repo.blobs or value.get("size", repo.blobs.size(oid)) != repo.blobs.size(oid):
            raise Refusal(400, NO_OBJECT.format(path))
        entries[path] = Entry(sha256=oid, size=repo.blobs.size(oid))
    elif key in ("deletedFile", "deletedFolder"):
        gone = [name for name, _ in under(entries, path.rstrip("/"))]
        if not gone or (key == "deletedFile") != (gone == [path]):
            raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for name in gone:
            del entries[name]
    else:
        raise Refusal(400, f"unknown operation {key}")


@routes("GET HEAD", NAME + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(hub: Hub, request: Request, name: str, revision: str, path: str) -> Reply:
    """`hf_hub_download`, hf://: a regular file itself, or where an LFS file is to be had."""
    repo = hub.repo(request, name)
    found = repo.at(revision)
    headers = {"X-Repo-Commit": found.oid}
    entry = found.entries.get(path)
    if entry is None:
        refusal = Refusal(404, "Entry not found", "EntryNotFound")
        refusal.reply.headers |= headers
        raise refusal
    if not entry.sha256:
        headers["ETag"] = f'"{entry.oid}"'
        return _part(request, entry.size, partial(repo.read, entry), headers)
    headers |= {
        "Location": f"{hub.storage_url}/cdn/{entry.sha256}?signature={hub.sign(entry.sha256)}",
        "X-Linked-Size": str(entry.size),
        "X-Linked-ETag": f'"{entry.sha256}"',
    }
    if entry.sha256 in hub.blobs.xet_hashes:
        route = f"{hub.url}/api/datasets/{name}/xet-read-token/{found.oid}"
        headers["X-Xet-Hash"] = hub.blobs.xet_hashes[entry.sha256]
        headers["Link"] = f'<{route}>; rel="xet-auth"'
    return Reply(status=302, headers=headers)


@routes("GET HEAD", r"/cdn/(?P<oid>[0-9a-f]{64})")
def cdn(hub: Hub, request: Request, oid: str) -> Reply:
    """Where an LFS file is to be had."""
    _check_signature(hub, request, oid)
    size = hub.blobs.size(oid)
    return _part(request, size, partial(hub.blobs.read, oid), {"ETag": f'"{oid}"'})


def _part(
    request: Request, size: int, read: Callable[[int, int], bytes], headers: dict[str, str]
) -> Reply:
    """Content of this size, or the one range of it that was asked for; read takes start, length."""
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(size), **headers}
    if request.method == "HEAD":
        return Reply(headers=headers)
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", "bytes=-"))
    if not found or not any(found.groups()):
        return Reply(read(0, size), headers=headers)
    if found[1]:
        first, last = int(found[1]), min(int(found[2] or size), size - 1)
    else:
        first, last = max(size - int(found[2]), 0), size - 1
    if first > last:
        refusal = Refusal(416, "range not satisfiable")
        refusal.reply.headers["Content-Range"] = f"bytes */{size}"
        raise refusal
    headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    headers["Content-Length"] = str(last + 1 - first)
    return Reply(read(first, last + 1 - first), 206, headers)


@routes("GET", API + r"/xet-(?P<right>read|write)-token/(?P<revision>[^/]+)")
def xet_token(hub: Hub, request: Request, name: str, right: str, revision: str) -> Reply:
    """Asked by hf_xet before it reads or writes, and by `xet_get`."""
    hub.repo(request, name, write=right == "write").at(revision)
    token, end = hub.xet_token(right)
    headers = {
        "X-Xet-Cas-Url": hub.storage_url,
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(end),
    }
    return Reply({"casUrl": hub.storage_url, "accessToken": token, "exp": end}, headers=headers)


def _check_signature(hub: Hub, request: Request, oid: str) -> None:
    if request.query.get("signature") != [hub.sign(oid)]:
        raise Refusal(403, "this address is not signed")
