"""Bring a repository of the Hub to what the local files are: look, compare, send, look again."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from pipeline.errors import UserError
from pipeline.publish.changes import (
    LocalFile,
    Plan,
    RemoteFile,
    describe,
    is_shard,
    make_plan,
    readable,
    refuse_foreign,
)
from pipeline.publish.hub_errors import FIRST_WAITS, WAITS, explained, passing
from pipeline.shards.manifest import MANIFEST, Shard, parse_manifest

KIND = "dataset"


@dataclass(frozen=True)
class Repository:
    """A repository of the Hub as it is.

    Attributes:
        head: Its last commit; None if there is no such repository (that the token may see).
        private: Whether only those who are invited see it.
        files: What its main branch holds.
        manifest: The shards that its manifest.json names; None without one of ours.
    """

    head: str | None
    private: bool
    files: tuple[RemoteFile, ...] = ()
    manifest: tuple[Shard, ...] | None = None


def check_access(repo: str, api: HfApi | None = None) -> None:
    """Refuse a name that is none, and a token that is missing or wrong, before hours of work.

    Raises:
        UserError: One line about what to do.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo):
        raise UserError(f"REPO={repo} is no name of a repository; write it as user/name")
    api = api or HfApi()
    try:
        api.whoami()
    except Exception as error:
        told = explained(error, repo, api.endpoint)
        if told is None:
            raise
        raise told from None


def publish(
    files: Sequence[LocalFile],
    repo: str,
    *,
    private: bool = True,
    dry_run: bool = False,
    replace: bool = False,
    api: HfApi | None = None,
    say: Callable[[str], None] = print,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Make a repository hold exactly these files, besides those of others that it has.

    It may be interrupted anywhere and called again: what has arrived is not sent a second time,
    and readers see the old dataset until the last commit.

    Args:
        files: As `pipeline.publish.changes.local_files` gives them.
        repo: `user/name` or `organisation/name`.
        private: Make a new repository private; an existing public one is then refused.
        dry_run: Say what would change and stop.
        replace: Also where the repository holds something else.
        api: The client; by default of the endpoint and the token of the environment or of the
            hub's own login.
        say: Where progress goes.
        sleep: How to wait, for tests.

    Returns:
        Address of the repository.

    Raises:
        UserError: The Hub refuses, stays out of reach, or the repository holds something else; or
            a file is no longer what was verified.
    """
    api = api or HfApi()
    packed = next(parse_manifest(f.path.read_bytes()) for f in files if f.name == MANIFEST) or ()
    announced, complete, waits = False, 0, iter(FIRST_WAITS)
    arrived: set[str] = set()
    while complete < 3:
        try:
            there = look(api, repo)
            plan = make_plan(files, there.files)
            if not replace:
                refuse_foreign(there.files, there.manifest, files, packed, repo)
            if not announced:
                announced, waits = True, iter(WAITS)
                _announce(there, plan, repo, private, say)
            if dry_run or plan.is_done:
                return f"{api.endpoint}/datasets/{repo}"
            if there.head is None:
                api.create_repo(repo, repo_type=KIND, private=private, exist_ok=True)
                there = look(api, repo)
            head, commits = there.head, plan.commits()
            for number, batch in enumerate(commits, start=1):
                additions = []
                for file in batch:
                    additions.append(_send(api, repo, file))
                    if is_shard(file.name) and file.sha256 not in arrived:
                        arrived.add(file.sha256)
                        waits = iter(WAITS)
                        say(f"sent {file.name}, {readable(file.size)}")
                removed = plan.removed if number == len(commits) else ()
                head, waits = _commit(api, repo, head, additions, removed), iter(WAITS)
                say(f"commit {number} of {len(commits)}: {head[:8]}")
            complete += 1
        except UserError:
            raise
        except Exception as error:
            reason, wait = passing(error), next(waits, None)
            if reason is None or wait is None:
                told = explained(error, repo, api.endpoint)
                if told is None:
                    raise
                raise told from None  # the chain holds requests, and so headers
            say(f"{reason}; looking again in {wait} s")
            sleep(wait)
    raise UserError(f"{repo} does not come to hold what was sent; run the same command again")


def look(api: HfApi, repo: str) -> Repository:
    """The repository's files, all at the same commit."""
    try:
        info = api.repo_info(repo, repo_type=KIND)
    except RepositoryNotFoundError:
        return Repository(None, private=True)
    files = tuple(
        RemoteFile(
            name=entry.path,
            size=entry.size,
            sha256=entry.lfs.sha256 if entry.lfs else None,
            git_sha1=entry.blob_id,
        )
        for entry in api.list_repo_tree(repo, recursive=True, repo_type=KIND, revision=info.sha)
        if isinstance(entry, RepoFile)
    )
    manifest = None
    if any(file.name == MANIFEST for file in files):
        manifest = _read_manifest(api, repo, str(info.sha))
    return Repository(info.sha, bool(info.private), files, manifest)


def _read_manifest(api: HfApi, repo: str, revision: str) -> tuple[Shard, ...] | None:
    path = api.hf_hub_download(repo, MANIFEST, repo_type=KIND, revision=revision)
    with open(path, "rb") as file:
        shards = parse_manifest(file.read())
    return None if shards is None else tuple(shards)


def _send(api: HfApi, repo: str, file: LocalFile) -> CommitOperationAdd:
    """Prepare a file for its commit: what goes there is what was verified, or nothing.

    A shard is sent ahead, so that it is not sent again after a fault.
    """
    changed = UserError(f"{file.path} has changed meanwhile; run the same command again")
    try:
        if not is_shard(file.name):
            data = file.path.read_bytes()
            if hashlib.sha256(data).hexdigest() != file.sha256:
                raise changed
            return CommitOperationAdd(file.name, data)
        if not file.path.is_file():  # which the client calls a ValueError
            raise changed
        addition = CommitOperationAdd(file.name, str(file.path))
        api.preupload_lfs_files(repo, [addition], repo_type=KIND, free_memory=False)
    except FileNotFoundError:
        raise changed from None
    if addition.upload_info.sha256.hex() != file.sha256:
        raise changed
    return addition


def _commit(
    api: HfApi,
    repo: str,
    head: str | None,
    additions: Sequence[CommitOperationAdd],
    removed: Sequence[str],
) -> str:
    """One commit on top of `head`; refused (412) if somebody else made one since."""
    shards = sum(is_shard(addition.path_in_repo) for addition in additions)
    info = api.create_commit(
        repo,
        [*additions, *(CommitOperationDelete(name) for name in removed)],
        commit_message=f"Add {shards} shards" if shards else "Update the card",
        repo_type=KIND,
        parent_commit=head,
    )
    return info.oid


def _announce(
    there: Repository, plan: Plan, repo: str, private: bool, say: Callable[[str], None]
) -> None:
    """Say what would happen.

    Raises:
        UserError: The repository is public, and that was not asked for.
    """
    if there.head is None:
        say(f"{repo}: a new {'private' if private else 'public'} dataset")
    elif private and not there.private:
        raise UserError(
            f"{repo} is public; give PRIVATE=0 to publish there, or choose another REPO"
        )
    else:
        say(f"{repo}: a {'private' if there.private else 'public'} dataset at {there.head[:8]}")
        if not private and there.private:
            say("  it stays private; its settings on the Hub make it public")
    for line in describe(plan):
        say(f"  {line}")
