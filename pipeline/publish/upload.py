"""Bring a repository of the Hub to what the local files are: look, compare, send, look again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from pipeline.errors import UserError
from pipeline.publish.errors import WAITS, explained, passing
from pipeline.publish.plan import (
    LocalFile,
    Plan,
    RemoteFile,
    describe,
    is_shard,
    make_plan,
    readable,
    refuse_foreign,
)
from pipeline.shards.contents import MANIFEST

KIND = "dataset"


@dataclass(frozen=True)
class Repository:
    """A repository of the Hub as it is.

    Attributes:
        head: Its last commit; None if there is no such repository (that the token may see).
        private: Whether only those who are invited see it.
        files: What its main branch holds.
        manifest: Names of the shards of its manifest.json; None without a readable one.
    """

    head: str | None
    private: bool
    files: tuple[RemoteFile, ...] = ()
    manifest: tuple[str, ...] | None = None


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
        files: As `pipeline.publish.plan.local_files` gives them.
        repo: `user/name` or `organisation/name`.
        private: Visibility of a repository that is made now; an existing one keeps its own.
        dry_run: Say what would change and stop.
        replace: Also where the repository holds something else.
        api: The client; by default of the endpoint and the token of the environment or of the
            hub's own login.
        say: Where progress goes.
        sleep: How to wait, for tests.

    Returns:
        Address of the repository.

    Raises:
        UserError: The Hub refuses, stays out of reach, or the repository holds something else.
    """
    api = api or HfApi()
    announced, complete, waits = False, 0, iter(WAITS)
    arrived: set[str] = set()
    while complete < 3:
        try:
            there = look(api, repo)
            plan = make_plan(files, there.files)
            if not replace:
                refuse_foreign(plan, there.files, there.manifest, repo)
            if not announced:
                announced = True
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
        except Exception as error:
            reason, wait = passing(error), next(waits, None)
            if reason is None or wait is None or not announced:
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


def _read_manifest(api: HfApi, repo: str, revision: str) -> tuple[str, ...] | None:
    path = api.hf_hub_download(repo, MANIFEST, repo_type=KIND, revision=revision)
    try:
        with open(path, encoding="utf-8") as file:
            return tuple(dict(json.load(file)))
    except (ValueError, TypeError):
        return None


def _send(api: HfApi, repo: str, file: LocalFile) -> CommitOperationAdd:
    """Send a large file ahead of its commit: what has arrived is not sent again after a fault."""
    addition = CommitOperationAdd(file.name, str(file.path))
    if is_shard(file.name):
        api.preupload_lfs_files(repo, [addition], repo_type=KIND, free_memory=False)
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
    if there.head is None:
        say(f"{repo}: a new {'private' if private else 'public'} dataset")
    else:
        say(f"{repo}: a {'private' if there.private else 'public'} dataset at {there.head[:8]}")
    for line in describe(plan):
        say(f"  {line}")
