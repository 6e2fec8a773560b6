"""The Hub's routes about users, repositories and what is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from tests.hub.card import check_card, read_metadata
from tests.hub.store import Commit, Repo, under
from tests.hub.wire import Refusal, Reply, Request, Routes

if TYPE_CHECKING:
    from tests.hub.server import Hub

API = r"/api/datasets/(?P<name>[^/]+/[^/]+)"

EXPANDED_PAGE = 50
"""Most entries in a page of a listing that is to say which commit changed each."""

routes = Routes()


@routes("GET", "/api/whoami-v2")
def whoami(hub: Hub, request: Request) -> Reply:
    """`HfApi.whoami`"""
    user, write = hub.user(request)
    if not user:
        raise Refusal(401, "Invalid username or password.")
    token = {"displayName": "test", "role": "write" if write else "read"}
    auth = {"type": "access_token", "accessToken": token}
    return Reply({"type": "user", "id": user, "name": user, "orgs": [], "auth": auth})


@routes("POST", "/api/validate-yaml")
def validate_yaml(hub: Hub, request: Request) -> Reply:
    """Asked by `create_commit` before it uploads a README.md."""
    errors, warnings = check_card(request.json()["content"])
    found = {
        "errors": [{"message": message} for message in errors],
        "warnings": [{"message": message} for message in warnings],
    }
    return Reply(found, 400 if errors else 200)


@routes("POST", "/api/repos/create")
def create(hub: Hub, request: Request) -> Reply:
    """`HfApi.create_repo`"""
    asked = request.json()
    user, write = hub.user(request)
    if not user:
        raise Refusal(401, "Invalid username or password.")
    owner = asked.get("organization") or user
    name = f"{owner}/{asked['name']}"
    if asked.get("type") != "dataset":
        raise Refusal(400, "this Hub holds datasets only")
    if not write or owner != user:
        text = f'You don\'t have the rights to create a dataset under the namespace "{owner}"'
        raise Refusal(403, text)
    url = f"{hub.url}/datasets/{name}"
    if name in hub.repos:
        raise Refusal(409, "You already created this dataset repo", url=url)
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    hub.repos[name] = Repo(name, hub.blobs, private)
    return Reply({"url": url, "name": name, "id": name})


@routes("DELETE", "/api/repos/delete")
def delete(hub: Hub, request: Request) -> Reply:
    """`HfApi.delete_repo`"""
    asked = request.json()
    owner = asked.get("organization") or hub.user(request)[0]
    del hub.repos[hub.repo(request, f"{owner}/{asked['name']}", write=True).name]
    return Reply({})


@routes("PUT", API + "/settings")
def settings(hub: Hub, request: Request, name: str) -> Reply:
    """`HfApi.update_repo_settings`: who may see it."""
    repo, asked = hub.repo(request, name, write=True), request.json()
    if "visibility" in asked:
        repo.private = asked["visibility"] == "private"
    return Reply({"private": repo.private})


@routes("GET", API + "/auth-check")
def auth_check(hub: Hub, request: Request, name: str) -> Reply:
    """`HfApi.auth_check`"""
    hub.repo(request, name)
    return Reply({})


@routes("GET", API + r"(/revision/(?P<revision>[^/]+))?")
def info(hub: Hub, request: Request, name: str, revision: str) -> Reply:
    """`HfApi.repo_info`, `repo_exists`; also how a revision becomes a commit in many others."""
    repo = hub.repo(request, name)
    commit = repo.at(revision or "main")
    readme = commit.entries.get("README.md")
    about: dict[str, Any] = {
        "author": name.split("/")[0],
        "sha": commit.oid,
        "lastModified": commit.date,
        "createdAt": repo.commits[0].date,
        "private": repo.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "cardData": read_metadata(repo.read(readme).decode()) if readme else None,
        "siblings": [_sibling(repo, commit, path, request) for path in sorted(commit.entries)],
        "usedStorage": sum({e.sha256: e.size for e in commit.entries.values()}.values()),
    }
    about["tags"] = (about["cardData"] or {}).get("tags", [])
    if wanted := request.query.get("expand"):
        about = {key: value for key, value in about.items() if key in wanted}
    return Reply({"_id": name, "id": name, **about})


def _sibling(repo: Repo, commit: Commit, path: str, request: Request) -> dict[str, Any]:
    if not request.flag("blobs"):
        return {"rfilename": path}
    about = repo.describe(path, commit.entries[path])
    lfs = about.get("lfs")
    sibling = {"rfilename": path, "size": about["size"], "blobId": about["oid"]}
    return sibling | ({"lfs": lfs | {"sha256": lfs["oid"]}} if lfs else {})


@routes("GET", API + r"/tree/(?P<revision>[^/]+)(/(?P<path>.+))?")
def tree(hub: Hub, request: Request, name: str, revision: str, path: str) -> Reply:
    """`HfApi.list_repo_tree`, `snapshot_download`, and listings of hf://"""
    repo = hub.repo(request, name)
    expand = request.flag("expand")
    everything = _listing(repo, revision, path, request.flag("recursive"), expand)
    size = min(hub.page_size, EXPANDED_PAGE) if expand else hub.page_size
    start = int(request.query.get("cursor", ["0"])[0])
    headers = {}
    if start + size < len(everything):
        flags = f"recursive={request.flag('recursive')}&expand={expand}"
        link = f"{hub.url}{request.path}?{flags}&cursor={start + size}"
        headers["Link"] = f'<{link}>; rel="next"'
    return Reply(everything[start : start + size], headers=headers)


@routes("POST", API + r"/paths-info/(?P<revision>[^/]+)")
def paths_info(hub: Hub, request: Request, name: str, revision: str) -> Reply:
    """`HfApi.get_paths_info`"""
    repo, form = hub.repo(request, name), parse_qs(request.body.decode())
    expand = form.get("expand", ["false"])[0].lower() == "true"
    everything = _listing(repo, revision, "", True, expand)
    return Reply([about for about in everything if about["path"] in form.get("paths", [])])


def _listing(
    repo: Repo, revision: str, folder: str, recursive: bool, expand: bool
) -> list[dict[str, Any]]:
    """Files and folders in a folder, by path."""
    entries = dict(under(repo.at(revision).entries, folder))
    if folder and (not entries or folder in entries):
        raise Refusal(404, f'{folder} does not exist on "{revision}"', "EntryNotFound")
    depth = folder.count("/") + 1 if folder else 0
    found: dict[str, dict[str, Any]] = {}
    for path, entry in entries.items():
        parts = path.split("/")
        for length in range(depth + 1, len(parts)):
            parent = "/".join(parts[:length])
            found[parent] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": parent}
        found[path] = repo.describe(path, entry)
    listing = [found[path] for path in sorted(found) if recursive or path.count("/") == depth]
    for about in listing if expand else ():
        change = repo.last_change(revision, about["path"])
        about["lastCommit"] = {"id": change.oid, "title": change.title, "date": change.date}
    return listing


@routes("GET", API + r"/commits/(?P<revision>[^/]+)")
def commits(hub: Hub, request: Request, name: str, revision: str) -> Reply:
    """`HfApi.list_repo_commits`"""
    history = hub.repo(request, name).history(revision)
    author = [{"user": name.split("/")[0]}]
    return Reply(
        [
            {"id": c.oid, "title": c.title, "message": c.message, "date": c.date, "authors": author}
            for c in history
        ]
    )


@routes("GET", API + "/refs")
def refs(hub: Hub, request: Request, name: str) -> Reply:
    """`HfApi.list_repo_refs`"""
    repo = hub.repo(request, name)

    def listed(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid}
            for name, oid in names.items()
        ]

    found = {"branches": listed("heads", repo.branches), "tags": listed("tags", repo.tags)}
    return Reply({**found, "converts": [], "pullRequests": []})


@routes("POST", API + r"/tag/(?P<revision>[^/]+)")
def tag(hub: Hub, request: Request, name: str, revision: str) -> Reply:
    """`HfApi.create_tag`"""
    repo, wanted = hub.repo(request, name, write=True), request.json()["tag"]
    if wanted in repo.tags:
        raise Refusal(409, f"Tag {wanted} already exists")
    repo.tags[wanted] = repo.at(revision).oid
    return Reply({})


@routes("POST", API + r"/branch/(?P<branch>[^/]+)")
def branch(hub: Hub, request: Request, name: str, branch: str) -> Reply:
    """`HfApi.create_branch`"""
    repo, start = hub.repo(request, name, write=True), request.json().get("startingPoint", "main")
    if branch in repo.branches:
        raise Refusal(409, f"Reference already exists: refs/heads/{branch}")
    repo.branches[branch] = repo.at(start).oid
    return Reply({})


@routes("DELETE", API + r"/(?P<kind>tag|branch)/(?P<ref>[^/]+)")
def delete_ref(hub: Hub, request: Request, name: str, kind: str, ref: str) -> Reply:
    """`HfApi.delete_tag`, `HfApi.delete_branch`"""
    repo = hub.repo(request, name, write=True)
    refs = repo.tags if kind == "tag" else repo.branches
    if refs.pop(ref if ref != "main" else "", None) is None:
        raise Refusal(404, f"no {kind} {ref} that can be deleted", "RevisionNotFound")
    return Reply({})
