"""Publishing with the real client to a Hub on this machine, with and without faults."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys

import pytest
from huggingface_hub import HfApi

from pipeline.errors import UserError
from pipeline.publish.changes import Changes
from pipeline.publish.hub_errors import WAITS
from pipeline.publish.upload import check_access, publish, read_repository
from tests.errors import raises_user_error
from tests.hub.http import Fault

REPO = "user/name"


@pytest.fixture
def send(hub, dataset):
    """Publish; record the printed lines and the waits."""

    def publish_now(token=None, **options):
        publish_now.said, publish_now.waited = [], []
        return publish(
            dataset.files(),
            REPO,
            api=hub.api(token),
            say=publish_now.said.append,
            sleep=publish_now.waited.append,
            **options,
        )

    return publish_now


def published(hub):
    """The content of the repository, without the file that the Hub adds."""
    files = hub.repos[REPO].files() if REPO in hub.repos else {}
    return {name: data for name, data in files.items() if name != ".gitattributes"}


def test_new_repository_is_private_and_complete(hub, dataset, send):
    assert send() == f"{hub.url}/datasets/{REPO}"
    assert published(hub) == dataset.content()
    assert hub.repos[REPO].private
    assert len(hub.repos[REPO].commits) == 2  # the initial one and one upload
    assert "  + data/train-00000.parquet  97.7 KiB" in send.said


def test_public_repository_only_on_request(hub, send):
    send(private=False)
    assert not hub.repos[REPO].private


def test_existing_public_repository_needs_consent(hub, dataset, send):
    hub.api().create_repo(REPO, repo_type="dataset", private=False)
    with raises_user_error(REPO, "PRIVATE=0"):
        send()
    assert hub.uploads == []
    send(private=False)
    assert published(hub) == dataset.content()


@pytest.mark.parametrize("name", ["data/train-00001.parquet", "README.md"])
@pytest.mark.parametrize("change", ["changed", "deleted"])
def test_file_that_is_no_longer_the_verified_one_is_not_published(hub, dataset, name, change):
    files, path = dataset.files(), dataset.folder / name
    path.write_bytes(path.read_bytes() + b"x")
    if change == "deleted":
        path.unlink()
    with raises_user_error(path):
        publish(files, REPO, api=hub.api(), say=lambda line: None)
    assert published(hub) == {}


def test_dry_run_prints_the_changes_and_uploads_nothing(hub, dataset, send):
    send(dry_run=True)
    assert hub.repos == {} and hub.uploads == []
    assert any(line.endswith("to upload in 1 commit") for line in send.said)
    send()
    dataset.card("second")
    commits, requests = len(hub.repos[REPO].commits), len(hub.requests)
    send(dry_run=True)
    assert [line for line in send.said if line.startswith("  ~")] == ["  ~ README.md  71 bytes"]
    assert len(hub.repos[REPO].commits) == commits
    assert {request.method for request in hub.requests[requests:]} <= {"GET", "HEAD"}


def test_unchanged_files_are_not_uploaded(hub, send):
    send()
    commits, uploads = len(hub.repos[REPO].commits), len(hub.uploads)
    send()
    assert (len(hub.repos[REPO].commits), len(hub.uploads)) == (commits, uploads)
    assert send.said[-1] == "  nothing to upload"


def test_grown_dataset_uploads_new_and_changed_shards(hub, dataset, send):
    send()
    before = len(hub.uploads)
    dataset.shards(train=4, validation=1)
    send()
    assert published(hub) == dataset.content()
    assert sum(upload.bytes for upload in hub.uploads[before:]) == 100_000 + 44_000


def test_readers_see_the_old_dataset_until_the_last_commit(hub, dataset, send, monkeypatch):
    monkeypatch.setattr(Changes.commits, "__defaults__", (2,))
    send()
    old = dataset.content()
    dataset.shards(train=9, validation=2)
    dataset.card("second")
    first = len(hub.repos[REPO].commits)
    send()
    *between, _ = hub.repos[REPO].commits[first:]
    assert len(between) == 3
    for commit in between:
        assert old.items() <= hub.repos[REPO].files(commit.oid).items()
    assert published(hub) == dataset.content()


def test_another_dataset_is_replaced_only_on_request(hub, dataset, send):
    dataset.shards(train=1, validation=1)
    send()
    dataset.shards(run="other", train=1, validation=1)
    with raises_user_error(REPO, "REPLACE=1"):
        send()
    send(replace=True)
    assert published(hub) == dataset.content()


def test_state_of_a_repository(hub, dataset, send):
    assert read_repository(hub.api(), REPO).head is None
    send()
    found = read_repository(hub.api(), REPO)
    assert {file.name for file in found.files} == {".gitattributes", *dataset.content()}
    assert list(found.manifest) == dataset.packed()


# ---- transient faults ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [409, 412, 429, 500, 502, 503, 504])
def test_transient_status_is_retried(hub, dataset, send, status):
    hub.faults.append(Fault("/commit/", status=status, times=2))
    send()
    assert published(hub) == dataset.content()
    assert send.waited == [1, 2]


def test_first_request_and_manifest_are_retried(hub, dataset, send, monkeypatch):
    send()
    dataset.card("second")
    hub.faults.append(Fault(rf"/api/datasets/{REPO}\?$", status=503, times=2))
    send()
    assert send.waited == [1, 2] and published(hub) == dataset.content()
    dataset.card("third")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.faults.append(Fault("/resolve/.*manifest", status=503, times=-1))
    with raises_user_error(hub.url):
        send()


def test_slow_hub_needs_no_retry(hub, dataset, send):
    hub.faults.append(Fault("/commit/", delay=2))
    send()
    assert published(hub) == dataset.content() and send.waited == []


def test_lost_reply_to_a_commit_gives_no_second_commit(hub, dataset, send):
    hub.faults.append(Fault("/commit/", drop="response"))
    send()
    assert published(hub) == dataset.content()
    assert len(hub.repos[REPO].commits) == 2 and send.waited == [1]


def test_dropped_connection_repeats_no_complete_upload(hub, dataset, send, monkeypatch):
    hub.faults.append(Fault("^/lfs/", skip=2, times=6, drop="request"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    send()
    assert published(hub) == dataset.content()
    uploaded = [upload.key for upload in hub.uploads]
    assert len(uploaded) == len(set(uploaded)) == 5  # four shards and a figure


def test_concurrent_commit_is_kept(hub, dataset, send):
    send()
    dataset.shards(train=4, validation=1)

    def commit_notes(request):
        hub.api().upload_file(
            path_or_fileobj=b"x", path_in_repo="notes.txt", repo_id=REPO, repo_type="dataset"
        )

    hub.faults.append(Fault("/preupload/", call=commit_notes))
    send()
    assert send.waited == [1]
    assert published(hub) == {**dataset.content(), "notes.txt": b"x"}


def test_lasting_fault_is_a_user_error(hub, send):
    hub.faults.append(Fault("/commit/", status=503, times=-1))
    with raises_user_error(hub.url):
        send()
    assert send.waited == list(WAITS)


def test_unreachable_hub_is_a_user_error(dataset):
    api = HfApi(endpoint="http://127.0.0.1:9", token=False)
    with raises_user_error("http://127.0.0.1:9"):
        publish(dataset.files(), REPO, api=api, say=len, sleep=float)


# ---- permanent errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "fault", "named"),
    [
        ("hf_read", None, REPO),
        ("hf_wrong", None, "HF_TOKEN"),
        (False, None, "HF_TOKEN"),
        (None, Fault("/commit/", status=403), REPO),
        (None, Fault("/commit/", status=402), "402"),
    ],
)
def test_permanent_error_is_not_retried(hub, send, token, fault, named):
    hub.faults += [fault] if fault else []
    with pytest.raises(UserError) as found:
        send(token=token)
    message = str(found.value)
    assert named in message and "\n" not in message
    assert not any(secret in message for secret in (hub.token, "hf_read", "hf_wrong"))
    assert found.value.__cause__ is None and send.waited == []


def test_private_repository_of_another_user(hub, dataset):
    hub.api(hub.other_token).create_repo("other/secret", repo_type="dataset", private=True)
    with raises_user_error("other/secret"):
        publish(dataset.files(), "other/secret", api=hub.api(), say=lambda line: None)


def test_invalid_card_is_a_user_error(hub, dataset, send):
    (dataset.folder / "README.md").write_text("---\nlicense: mine\n---\n")
    with raises_user_error("license", "mine"):
        send()
    assert "data/train-00000.parquet" not in hub.repos[REPO].files()


@pytest.mark.parametrize("repo", ["nothing here", "user", "a/b/c", "-x/.y"])
def test_invalid_repository_name(hub, repo):
    with raises_user_error(f"REPO={repo}", "user/name"):
        check_access(repo, hub.api())


@pytest.mark.parametrize("token", [None, "hf_wrong", "hf_ü"])
def test_token_is_checked_first(hub, tmp_path, monkeypatch, token):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with raises_user_error("HF_TOKEN"):
        check_access(REPO, HfApi(endpoint=hub.url, token=token))
    check_access(REPO, hub.api())


# ---- kill ----------------------------------------------------------------------------------------

PUBLISH = """
import pickle, sys
from pipeline.publish.upload import publish
publish(pickle.load(open(sys.argv[1], "rb")), "user/name")
"""


@pytest.mark.parametrize("xet", [False, True])
def test_killed_upload_is_resumed(hub, dataset, tmp_path, xet):
    """The upload of the third shard kills the process; the next process uploads the rest."""
    files = tmp_path / "files"
    files.write_bytes(pickle.dumps(dataset.files()))
    environment = hub.environment(tmp_path / "home", xet=xet)
    start = [sys.executable, "-c", PUBLISH, str(files)]
    process = subprocess.Popen(start, env=environment, stdout=subprocess.DEVNULL)
    target = "^/v1/xorbs/" if xet else "^/lfs/"
    hub.faults.append(Fault(target, skip=2, drop="request", call=lambda _: process.kill()))
    assert process.wait(60) == -signal.SIGKILL
    assert len({upload.key for upload in hub.uploads}) == 2
    assert published(hub) == {}  # nothing is visible yet

    subprocess.run(start, env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert published(hub) == dataset.content()
    uploaded = [upload.key for upload in hub.uploads]
    assert len(uploaded) == len(set(uploaded))
