"""What would change, decided without a network."""

from __future__ import annotations

import hashlib
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.publish.plan import (
    LocalFile,
    RemoteFile,
    describe,
    local_files,
    make_plan,
    refuse_foreign,
)

REPO = "user/name"


def remote(files, changed=()):
    """The repository that holds these local files, some of them with another content."""
    return [
        RemoteFile(f.name, f.size, f.sha256, None)
        if f.name.endswith(".parquet")
        else RemoteFile(f.name, f.size, None, f.git_sha1)
        for f in files
        if f.name not in changed
    ] + [RemoteFile(name, 1, "0" * 64, None) for name in changed]


def manifest(files):
    return [file.name.removeprefix("data/") for file in files if file.name.startswith("data/")]


def test_local_files(dataset):
    sha256 = {f.path.name: f.sha256 for f in dataset.files() if f.name.startswith("data/")}
    (dataset.folder / "data" / ".hidden").touch()
    (dataset.folder / "data" / "train-00077.parquet").touch()  # not verified, so not ours
    names = [file.name for file in local_files({"": dataset.folder}, sha256)]
    assert names == [
        "README.md",
        "data/train-00000.parquet",
        "data/train-00001.parquet",
        "data/train-00002.parquet",
        "data/validation-00000.parquet",
        "figures/sizes.png",
        "manifest.json",
    ]
    with pytest.raises(UserError, match="LICENSE is missing"):
        local_files({"LICENSE": dataset.folder / "LICENSE"}, {})


def test_a_small_file_has_the_name_that_git_gives_it(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"what\r\never\0")
    file = LocalFile("a", path, hashlib.sha256(path.read_bytes()).hexdigest())
    git = subprocess.run(["git", "hash-object", "--no-filters", path], capture_output=True)
    assert file.git_sha1 == git.stdout.decode().strip()


def test_nothing_to_send(dataset):
    plan = make_plan(dataset.files(), remote(dataset.files()))
    assert plan.is_done and len(plan.unchanged) == 7
    assert list(describe(plan))[-1] == "nothing to send"


def test_a_grown_dataset_sends_new_shards_and_the_last_of_each_split(dataset):
    before, there = manifest(dataset.files()), remote(dataset.files())
    dataset.shards(train=5, validation=2)
    plan = make_plan(dataset.files(), there)
    refuse_foreign(plan, there, before, REPO)
    assert [file.name for file in plan.added] == [
        "data/train-00003.parquet",
        "data/train-00004.parquet",
        "data/validation-00001.parquet",
    ]
    assert [file.name for file in plan.changed] == [
        "data/train-00002.parquet",
        "data/validation-00000.parquet",
        "manifest.json",
    ]
    lines = list(describe(plan))
    assert "+ data/train-00003.parquet  97.7 KiB" in lines
    assert "~ manifest.json  199 bytes" in lines
    assert lines[-1].endswith("to send in 1 commit")


def test_what_replaces_something_comes_in_the_last_commit(dataset):
    there = remote(dataset.files())
    dataset.shards(train=9, validation=1)
    dataset.card("second")
    plan = make_plan(dataset.files(), there)
    commits = [[file.name for file in batch] for batch in plan.commits(max_files=2)]
    new = [f"data/train-{number:05d}.parquet" for number in range(3, 9)]
    assert commits[:2] == [new[:2], new[2:4]]
    assert commits[2][:2] == new[4:]
    assert set(commits[2][2:]) == {"README.md", "data/train-00002.parquet", "manifest.json"}


@given(shards=st.integers(1, 20), there=st.integers(0, 20), max_files=st.integers(1, 5))
def test_every_file_is_sent_once(tmp_path_factory, shards, there, max_files):
    path = tmp_path_factory.getbasetemp() / "one"
    path.write_bytes(b"x")
    files = [LocalFile(f"data/train-{n:05d}.parquet", path, "1" * 64) for n in range(shards)]
    files.append(LocalFile("manifest.json", path, "1" * 64))
    plan = make_plan(files, remote(files[:there]))
    commits = plan.commits(max_files)
    assert [f for batch in commits for f in batch] == [*plan.added, *plan.changed]
    assert all(len(batch) <= max_files for batch in commits[:-1])


@pytest.mark.parametrize("changed", ["data/train-00000.parquet", "data/train-00001.parquet"])
def test_another_dataset_is_refused(dataset, changed):
    there = remote(dataset.files(), changed=[changed])
    plan = make_plan(dataset.files(), there)
    with pytest.raises(UserError, match=f"holds another dataset: 1 of its 4 shards .* {changed}"):
        refuse_foreign(plan, there, manifest(dataset.files()), REPO)


def test_a_larger_dataset_is_refused(dataset):
    larger, there = manifest(dataset.files()), remote(dataset.files())
    dataset.shards(train=2, validation=1)
    plan = make_plan(dataset.files(), there)
    assert plan.removed == ("data/train-00002.parquet",)
    with pytest.raises(UserError, match=r"2 of its 4 shards are not .* REPLACE=1"):
        refuse_foreign(plan, there, larger, REPO)


def test_the_rest_of_an_interrupted_upload_is_taken_over(dataset):
    """Shards that no manifest names were sent before an interruption; some have grown since."""
    before, there = manifest(dataset.files()), remote(dataset.files())
    dataset.shards(train=5, validation=1)
    new = remote(dataset.files(), changed=["data/train-00004.parquet"])
    sent = [*there, *(f for f in new if "0003" in f.name or "0004" in f.name)]
    plan = make_plan(dataset.files(), sent)
    assert "data/train-00004.parquet" in {file.name for file in plan.changed}
    refuse_foreign(plan, sent, before, REPO)
    first = [file for file in there if file.name.startswith("data/")]
    refuse_foreign(make_plan(dataset.files(), first), first, None, REPO)


def test_files_of_others(dataset):
    files = dataset.files()
    begun = [RemoteFile(name, 5, None, "0") for name in (".gitattributes", "README.md")]
    refuse_foreign(make_plan(files, begun), begun, None, REPO)
    stranger = [*begun, RemoteFile("train.csv", 5, None, "0")]
    with pytest.raises(UserError, match=r"not published from here, such as train\.csv"):
        refuse_foreign(make_plan(files, stranger), stranger, None, REPO)
    # beside our own dataset they stay
    plan = make_plan(files, [*remote(files), *stranger[2:]])
    refuse_foreign(plan, [*remote(files), *stranger[2:]], manifest(files), REPO)
    assert plan.is_done
