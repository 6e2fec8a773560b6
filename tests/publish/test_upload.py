"""Publishing to a Hub on this machine through the real client, undisturbed and disturbed."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys

import pytest
from huggingface_hub import HfApi

from pipeline.errors import UserError
from pipeline.publish.changes import Plan
from pipeline.publish.hub_errors import WAITS
from pipeline.publish.upload import check_access, look, publish
from tests.hub.wire import Fault

REPO = "user/name"
OWN = {".gitattributes"}  # what the Hub adds itself


@pytest.fixture
def send(hub, dataset):
    """Publish, note what is said and how long it would have waited."""

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
    return {n: data for n, data in hub.repos[REPO].files().items() if n not in OWN}


def test_a_public_repository_needs_a_word(hub, dataset, send):
    hub.api().create_repo(REPO, repo_type="dataset", private=False)
    with pytest.raises(UserError, match="user/name is public; give PRIVATE=0"):
        send()
    assert hub.uploads == []
    send(private=False)
    assert published(hub) == dataset.content()


@pytest.mark.parametrize("name", ["data/train-00001.parquet", "README.md"])
def test_what_is_no_longer_what_was_verified_is_not_committed(hub, dataset, name):
    files = dataset.files()
    path = dataset.folder / name
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match="has changed meanwhile"):
        publish(files, REPO, api=hub.api(), say=lambda line: None)
    path.unlink()
    with pytest.raises(UserError, match="has changed meanwhile"):
        publish(files, REPO, api=hub.api(), say=lambda line: None)
    assert published(hub) == {}


def test_a_new_private_repository(hub, dataset, send):
    assert send() == f"{hub.url}/datasets/{REPO}"
    assert published(hub) == dataset.content()
    assert hub.repos[REPO].private
    assert len(hub.repos[REPO].commits) == 2  # the Hub's own and ours
    assert send.said[0] == f"{REPO}: a new private dataset"
    assert "  + data/train-00000.parquet  97.7 KiB" in send.said


def test_public_only_where_asked(hub, send):
    send(private=False)
    assert not hub.repos[REPO].private


def test_a_dry_run_sends_nothing_and_says_what_would_change(hub, dataset, send):
    send(dry_run=True)
    assert hub.repos == {} and hub.uploads == []
    assert any(line.endswith("to send in 1 commit") for line in send.said)
    send()
    dataset.card("second")
    count = len(hub.repos[REPO].commits)
    send(dry_run=True)
    assert [line for line in send.said if line.startswith("  ~")] == ["  ~ README.md  71 bytes"]
    assert len(hub.repos[REPO].commits) == count
    assert all(request.method in ("GET", "HEAD") for request in hub.requests[-4:])


def test_unchanged_files_are_not_sent_again(hub, send):
    send()
    count, stored = len(hub.repos[REPO].commits), len(hub.uploads)
    send()
    assert (len(hub.repos[REPO].commits), len(hub.uploads)) == (count, stored)
    assert send.said[-1] == "  nothing to send"


def test_a_grown_dataset_sends_what_is_new(hub, dataset, send):
    send()
    before = len(hub.uploads)
    dataset.shards(train=4, validation=1)
    send()
    assert published(hub) == dataset.content()
    sent = sum(upload.bytes for upload in hub.uploads[before:])
    assert sent == 100_000 + 44_000  # the last shard, now full, and the new one


def test_readers_see_the_old_dataset_until_the_last_commit(hub, dataset, send, monkeypatch):
    """What its card and manifest name is there, byte for byte, after every commit."""
    monkeypatch.setattr(Plan.commits, "__defaults__", (2,))
    send()
    old = dataset.content()
    dataset.shards(train=9, validation=2)
    dataset.card("second")
    first = len(hub.repos[REPO].commits)
    send()
    *between, _ = hub.repos[REPO].commits[first:]
    assert len(between) == 3
    for commit in between:
        files = hub.repos[REPO].files(commit.oid)
        assert old.items() <= files.items()
    assert published(hub) == dataset.content()


# ---- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [409, 412, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(hub, dataset, send, status):
    hub.faults.append(Fault("/commit/", status=status, times=2))
    send()
    assert published(hub) == dataset.content()
    assert send.waited == [1, 2]


def test_passing_faults_of_the_first_look_and_of_the_manifest(hub, dataset, send, monkeypatch):
    send()
    dataset.card("second")
    hub.faults.append(Fault(f"/api/datasets/{REPO}$", status=503, times=2))
    send()
    assert send.waited == [1, 2] and published(hub) == dataset.content()
    dataset.card("third")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.faults.append(Fault("/resolve/.*manifest", status=503, times=-1))
    with pytest.raises(UserError, match="run the same command again later"):
        send()


def test_a_slow_hub_is_waited_for(hub, dataset, send):
    hub.faults.append(Fault("/commit/", delay=2))
    send()
    assert published(hub) == dataset.content() and send.waited == []


def test_a_lost_answer_to_a_commit_makes_no_second_one(hub, dataset, send):
    hub.faults.append(Fault("/commit/", drop="response"))
    send()
    assert published(hub) == dataset.content()
    assert len(hub.repos[REPO].commits) == 2
    assert "the connection failed; looking again in 1 s" in send.said


def test_a_dropped_connection_sends_only_the_rest_again(hub, dataset, send):
    hub.faults.append(Fault("/lfs/", method="PUT", skip=2, times=6, drop="request"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        send()
    assert published(hub) == dataset.content()
    arrived = [upload.key for upload in hub.uploads]
    assert len(arrived) == len(set(arrived)) == 5  # four shards and a figure, each once


def test_a_commit_of_somebody_else_meanwhile(hub, dataset, send):
    send()
    dataset.shards(train=4, validation=1)

    def intrude(request):
        hub.api().upload_file(
            path_or_fileobj=b"x", path_in_repo="notes.txt", repo_id=REPO, repo_type="dataset"
        )

    hub.faults.append(Fault("/preupload/", call=intrude))
    send()
    assert "the repository changed meanwhile; looking again in 1 s" in send.said
    assert published(hub) == {**dataset.content(), "notes.txt": b"x"}


def test_it_gives_up_with_one_line(hub, send):
    hub.faults.append(Fault("/commit/", status=503, times=-1))
    with pytest.raises(
        UserError, match=r"gave up on .* under maintenance; .* again later"
    ) as found:
        send()
    assert "\n" not in str(found.value)
    assert send.waited == list(WAITS)


REFUSALS = [
    ("hf_read", None, "your token may not write to user/name"),
    ("hf_wrong", None, "the Hub does not accept your token; set HF_TOKEN"),
    (False, None, "the Hub needs a token|does not accept your token|hidden from your token"),
    (None, Fault("/commit/", status=403), "your token may not write to user/name"),
    (None, Fault("/commit/", status=402), "the Hub answers 402"),
]


@pytest.mark.parametrize(("token", "fault", "message"), REFUSALS)
def test_what_does_not_pass_is_one_line(hub, send, token, fault, message):
    hub.faults += [fault] if fault else []
    with pytest.raises(UserError, match=message) as found:
        send(token=token)
    assert "\n" not in str(found.value)
    assert not any(secret in str(found.value) for secret in (hub.token, "hf_read", "hf_wrong"))
    assert found.value.__cause__ is None and send.waited == []


def test_a_private_repository_of_somebody_else(hub, dataset):
    hub.api(hub.other_token).create_repo("other/secret", repo_type="dataset", private=True)
    with pytest.raises(UserError, match=r"may not write|hidden from your token"):
        publish(dataset.files(), "other/secret", api=hub.api(), say=lambda line: None)


def test_the_hub_refuses_a_wrong_card(hub, dataset, send):
    (dataset.folder / "README.md").write_text("---\nlicense: mine\n---\n")
    with pytest.raises(UserError, match=r"the Hub refuses the card: .*license"):
        send()
    assert "data/train-00000.parquet" not in hub.repos[REPO].files()


def test_the_network_is_down(dataset):
    api = HfApi(endpoint="http://127.0.0.1:9", token=False)
    with pytest.raises(UserError, match=r"gave up on http://127.0.0.1:9: the connection failed"):
        publish(dataset.files(), REPO, api=api, say=len, sleep=float)


@pytest.mark.parametrize("repo", ["nothing here", "user", "a/b/c", "-x/.y"])
def test_a_name_that_is_none(hub, repo):
    with pytest.raises(UserError, match="is no name of a repository; write it as user/name"):
        check_access(repo, hub.api())


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "the Hub needs a token that may write; set HF_TOKEN"),
        ("hf_wrong", "the Hub does not accept your token"),
        ("hf_ü", "holds letters that no token has"),
    ],
)
def test_a_token_is_looked_at_first(hub, tmp_path, monkeypatch, token, message):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match=message):
        check_access(REPO, HfApi(endpoint=hub.url, token=token))
    check_access(REPO, hub.api())


def test_another_dataset_is_only_replaced_on_demand(hub, dataset, send):
    dataset.shards(train=1, validation=1)
    send()
    dataset.shards(run="other", train=1, validation=1)
    with pytest.raises(UserError, match="holds another dataset"):
        send()
    send(replace=True)
    assert published(hub) == dataset.content()


# ---- killed -------------------------------------------------------------------------------------

PUBLISH = """
import pickle, sys
from pipeline.publish.changes import Plan
from pipeline.publish.upload import publish
publish(pickle.load(open(sys.argv[1], "rb")), "user/name")
"""


@pytest.mark.parametrize("xet", [False, True])
def test_killed_in_the_middle_and_run_again(hub, dataset, tmp_path, xet):
    """The third shard's upload kills the process; the next one sends what is missing."""
    files = tmp_path / "files"
    files.write_bytes(pickle.dumps(dataset.files()))
    home, target = tmp_path / "home", "^/v1/xorbs/" if xet else "^/lfs/"
    environment = hub.environment(home, xet=xet)
    start = [sys.executable, "-c", PUBLISH, str(files)]
    process = subprocess.Popen(start, env=environment, stdout=subprocess.DEVNULL)
    hub.faults.append(Fault(target, skip=2, drop="request", call=lambda _: process.kill()))
    assert process.wait(60) == -signal.SIGKILL
    arrived = {upload.key for upload in hub.uploads if upload.kind != "shard"}
    assert len(arrived) == 2
    assert published(hub) == {}  # nothing half-visible

    subprocess.run(start, env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert published(hub) == dataset.content()
    data = [upload.key for upload in hub.uploads if upload.kind != "shard"]
    assert len(data) == len(set(data))  # nothing was sent twice


def test_look_reads_what_is_there(hub, dataset, send):
    assert look(hub.api(), REPO).head is None
    send()
    found = look(hub.api(), REPO)
    assert {file.name for file in found.files} - OWN == set(dataset.content())
    assert list(found.manifest) == dataset.packed()
