"""Upload a dataset to the Hub: read the repository, compare, commit, and read it again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from pipeline.errors import UserError
from pipeline.publish.changes import (
    Changes,
    LocalFile,
    RemoteFile,
    check_same_dataset,
    compare,
    describe,
)
from pipeline.publish.hub_errors import FIRST_WAITS, WAITS, as_user_error, transient_reason
from pipeline.shards.manifest import MANIFEST, Shard, parse_manifest
from pipeline.units import format_bytes, format_count

REPO_TYPE = "dataset"

MAX_ROUNDS = 3
"""Complete uploads after which the repository must equal the local files."""


@dataclass(frozen=True)
class Repository:
    """The state of a repository.

    Attributes:
        head: Its last commit; None if it does not exist, or the token may not see it.
        private: Whether it is private.
        files: The files of its main branch.
        manifest: The shards in its manifest.json; None without a manifest of this project.
    """

    head: str | None
    private: bool
    files: tuple[RemoteFile, ...] = ()
    manifest: tuple[Shard, ...] | None = None


def check_access(repo: str, api: HfApi | None = None) -> None:
    """Check the repository's name and the token before hours of work.

    Raises:
        UserError: The name is invalid, or the token is missing or wrong.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo):
        raise UserError(f"REPO={repo} is not a repository name; write user/name")
    api = api or HfApi()
    try:
        api.whoami()
    except Exception as error:
        user_error = as_user_error(error, repo, api.endpoint)
        if user_error is None:
            raise
        raise user_error from None


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
    """Make a repository equal to the local files; files of other origin in it stay.

    It may be interrupted at any time and called again: it resumes the upload, and readers see the
    old dataset until the last commit.

    Args:
        files: The files, from `pipeline.publish.changes.local_files`.
        repo: `user/name` or `organisation/name`.
        private: Create a private repository, and reject a public one.
        dry_run: Print the changes and stop.
        replace: Overwrite a repository that holds something else.
        api: The client; by default with the endpoint and token of the environment or the login.
        say: Receives lines about the progress.
        sleep: Waits; replaced in tests.

    Returns:
        Address of the repository.

    Raises:
        UserError: The Hub rejects the upload or stays unreachable, the repository holds something
            else, or a file has changed since it was verified.
    """
    api = api or HfApi()
    packed = next(parse_manifest(f.path.read_bytes()) for f in files if f.name == MANIFEST) or ()
    announced, rounds, waits = False, 0, iter(FIRST_WAITS)
    uploaded: set[str] = set()
    while rounds < MAX_ROUNDS:
        try:
            remote = read_repository(api, repo)
            changes = compare(files, remote.files)
            if not replace:
                check_same_dataset(remote.files, remote.manifest, files, packed, repo)
            if not announced:
                announced, waits = True, iter(WAITS)
                _announce(remote, changes, repo, private, say)
            if dry_run or changes.is_empty:
                return f"{api.endpoint}/datasets/{repo}"
            if remote.head is None:
                api.create_repo(repo, repo_type=REPO_TYPE, private=private, exist_ok=True)
                remote = read_repository(api, repo)
            head, commits = remote.head, changes.commits()
            for number, batch in enumerate(commits, start=1):
                additions = []
                for file in batch:
                    additions.append(_upload(api, repo, file))
                    if file.is_shard and file.sha256 not in uploaded:
                        uploaded.add(file.sha256)
                        waits = iter(WAITS)
                        say(f"uploaded {file.name}, {format_bytes(file.size)}")
                removed = changes.removed if number == len(commits) else ()
                shards = sum(file.is_shard for file in batch)
                title = f"Add {format_count(shards, 'shard')}" if shards else "Update the card"
                head, waits = _commit(api, repo, head, additions, removed, title), iter(WAITS)
                say(f"commit {number} of {len(commits)}: {head[:8]}")
            rounds += 1
        except UserError:
            raise
        except Exception as error:
            reason, wait = transient_reason(error), next(waits, None)
            if reason is None or wait is None:
                user_error = as_user_error(error, repo, api.endpoint)
                if user_error is None:
                    raise
                raise user_error from None  # the chain holds requests with their headers
            say(f"{reason}; trying again in {wait} s")
            sleep(wait)
    raise UserError(
        f"REPO={repo} still differs after {MAX_ROUNDS} complete uploads; run the same command again"
    )


def read_repository(api: HfApi, repo: str) -> Repository:
    """The state of a repository, consistently at one commit."""
    try:
        info = api.repo_info(repo, repo_type=REPO_TYPE)
    except RepositoryNotFoundError:
        return Repository(None, private=True)
    files = tuple(
        RemoteFile(
            name=entry.path,
            size=entry.size,
            sha256=entry.lfs.sha256 if entry.lfs else None,
            git_sha1=entry.blob_id,
        )
        for entry in api.list_repo_tree(
            repo, recursive=True, repo_type=REPO_TYPE, revision=info.sha
        )
        if isinstance(entry, RepoFile)
    )
    manifest = None
    if any(file.name == MANIFEST for file in files):
        manifest = _read_manifest(api, repo, str(info.sha))
    return Repository(info.sha, bool(info.private), files, manifest)


def _read_manifest(api: HfApi, repo: str, revision: str) -> tuple[Shard, ...] | None:
    path = api.hf_hub_download(repo, MANIFEST, repo_type=REPO_TYPE, revision=revision)
    with open(path, "rb") as file:
        shards = parse_manifest(file.read())
    return None if shards is None else tuple(shards)


def _upload(api: HfApi, repo: str, file: LocalFile) -> CommitOperationAdd:
    """Prepare a file for its commit, and upload it if it is a shard.

    Raises:
        UserError: The content is no longer the verified one.
        FileNotFoundError: The file is gone.
    """
    if file.is_shard:
        file.path.stat()  # raises FileNotFoundError, where the client would raise ValueError
        addition = CommitOperationAdd(file.name, str(file.path))
        api.preupload_lfs_files(repo, [addition], repo_type=REPO_TYPE, free_memory=False)
    else:
        addition = CommitOperationAdd(file.name, file.path.read_bytes())
    if addition.upload_info.sha256.hex() != file.sha256:
        raise UserError(
            f"{file.path} has changed since it was verified; run the same command again"
        )
    return addition


def _commit(
    api: HfApi,
    repo: str,
    head: str | None,
    additions: Sequence[CommitOperationAdd],
    removed: Sequence[str],
    title: str,
) -> str:
    """Commit on top of `head`; the Hub answers 412 if there is a newer commit."""
    info = api.create_commit(
        repo,
        [*additions, *(CommitOperationDelete(name) for name in removed)],
        commit_message=title,
        repo_type=REPO_TYPE,
        parent_commit=head,
    )
    return info.oid


def _announce(
    remote: Repository, changes: Changes, repo: str, private: bool, say: Callable[[str], None]
) -> None:
    """Print the repository and the changes.

    Raises:
        UserError: The repository is public, and `private` is set.
    """
    if remote.head is None:
        say(f"{repo}: new {'private' if private else 'public'} dataset")
    elif private and not remote.private:
        raise UserError(f"REPO={repo} is public; set PRIVATE=0, or choose another REPO")
    else:
        say(f"{repo}: {'private' if remote.private else 'public'} dataset at {remote.head[:8]}")
        if not private and remote.private:
            say("  it stays private; change its visibility in its settings on the Hub")
    for line in describe(changes):
        say(f"  {line}")
