"""Comparing local files with a repository, without a network."""

from __future__ import annotations

import hashlib
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.publish.changes import (
    LocalFile,
    RemoteFile,
    card_paths,
    check_same_dataset,
    compare,
    describe,
    local_files,
)
from pipeline.shards.manifest import parse_manifest
from tests.errors import raises_user_error

REPO = "user/name"


def remote(files, changed=()):
    """A repository with these files, some of them with another content."""
    return [
        RemoteFile(f.name, f.size, f.sha256, None)
        if f.name.endswith(".parquet")
        else RemoteFile(f.name, f.size, None, f.git_sha1)
        for f in files
        if f.name not in changed
    ] + [RemoteFile(name, 1, "0" * 64, None) for name in changed]


def check(dataset, there, published):
    check_same_dataset(there, published, dataset.files(), dataset.packed(), REPO)


def test_local_files(dataset):
    names = [file.name for file in dataset.files()]
    assert names == [
        "README.md",
        "data/train-00000.parquet",
        "data/train-00001.parquet",
        "data/train-00002.parquet",
        "data/validation-00000.parquet",
        "figures/sizes.png",
        "manifest.json",
    ]
    with raises_user_error(dataset.folder / "LICENSE"):
        local_files({"LICENSE": dataset.folder / "LICENSE"}, {})


def test_only_the_card_is_published_from_its_folder(tmp_path):
    for name in ("README.md", "figures/sizes.png", "figures/.cache/token", "notes.txt", ".token"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = ["README.md", "LICENSE", "statistics.json", "croissant.json", "figures/sizes.png"]
    assert list(card_paths(tmp_path)) == names


def test_git_hash_matches_git(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"what\r\never\0")
    file = LocalFile("a", path, hashlib.sha256(path.read_bytes()).hexdigest())
    git = subprocess.run(["git", "hash-object", "--no-filters", path], capture_output=True)
    assert file.git_sha1 == git.stdout.decode().strip()


def test_no_changes(dataset):
    changes = compare(dataset.files(), remote(dataset.files()))
    assert changes.is_empty and len(changes.unchanged) == 7
    assert list(describe(changes))[-1] == "nothing to upload"


def test_grown_dataset_adds_shards_and_changes_the_last_ones(dataset):
    before, there = dataset.packed(), remote(dataset.files())
    dataset.shards(train=5, validation=2)
    changes = compare(dataset.files(), there)
    check(dataset, there, before)
    assert [file.name for file in changes.added] == [
        "data/train-00003.parquet",
        "data/train-00004.parquet",
        "data/validation-00001.parquet",
    ]
    assert [file.name for file in changes.changed] == [
        "data/train-00002.parquet",
        "data/validation-00000.parquet",
        "manifest.json",
    ]
    lines = list(describe(changes))
    assert "+ data/train-00003.parquet  97.7 KiB" in lines
    assert any(line.startswith("~ manifest.json") for line in lines)
    assert lines[-1].endswith("to upload in 1 commit")


def test_replaced_files_are_in_the_last_commit(dataset):
    there = remote(dataset.files())
    dataset.shards(train=9, validation=1)
    dataset.card("second")
    changes = compare(dataset.files(), there)
    commits = [[file.name for file in batch] for batch in changes.commits(max_files=2)]
    new = [f"data/train-{number:05d}.parquet" for number in range(3, 9)]
    assert commits[:2] == [new[:2], new[2:4]]
    assert commits[2][:2] == new[4:]
    assert set(commits[2][2:]) == {"README.md", "data/train-00002.parquet", "manifest.json"}


@given(shards=st.integers(1, 20), there=st.integers(0, 20), max_files=st.integers(1, 5))
def test_every_file_is_in_one_commit(tmp_path_factory, shards, there, max_files):
    path = tmp_path_factory.getbasetemp() / "one"
    path.write_bytes(b"x")
    files = [LocalFile(f"data/train-{n:05d}.parquet", path, "1" * 64) for n in range(shards)]
    files.append(LocalFile("manifest.json", path, "1" * 64))
    changes = compare(files, remote(files[:there]))
    commits = changes.commits(max_files)
    assert [f for batch in commits for f in batch] == [*changes.added, *changes.changed]
    assert all(len(batch) <= max_files for batch in commits[:-1])


@pytest.mark.parametrize("counts", [{"train": 1, "validation": 1}, {"train": 4, "validation": 1}])
def test_another_dataset_is_rejected(dataset, counts):
    """By its rows, even if it only has the last shard of each split."""
    dataset.shards(train=1, validation=1)
    published, there = dataset.packed(), remote(dataset.files())
    dataset.shards(run="other", **counts)
    with raises_user_error(REPO, "train-00000.parquet", "REPLACE=1"):
        check(dataset, there, published)


def test_larger_dataset_is_rejected(dataset):
    published, there = dataset.packed(), remote(dataset.files())
    dataset.shards(train=2, validation=1)
    changes = compare(dataset.files(), there)
    assert changes.removed == ("data/train-00002.parquet",)
    with raises_user_error(REPO, "train-00001.parquet"):
        check(dataset, there, published)


def test_interrupted_upload_is_resumed(dataset):
    """Shards without a manifest are from an interrupted upload; some have grown since."""
    before, there = dataset.packed(), remote(dataset.files())
    dataset.shards(train=5, validation=1)
    new = remote(dataset.files(), changed=["data/train-00004.parquet"])
    sent = [*there, *(f for f in new if "0003" in f.name or "0004" in f.name)]
    assert "data/train-00004.parquet" in {f.name for f in compare(dataset.files(), sent).changed}
    check(dataset, sent, before)


def test_interrupted_first_upload_is_resumed(dataset):
    data = [file for file in remote(dataset.files()) if file.name.startswith("data/")]
    check(dataset, data, None)
    foreign = remote(dataset.files(), changed=["data/train-00002.parquet"])
    with raises_user_error(REPO, "data/train-00002.parquet"):
        check(dataset, [f for f in foreign if f.name.startswith("data/")], None)


def test_foreign_files_are_rejected_or_kept(dataset):
    initial = [RemoteFile(name, 5, None, "0") for name in (".gitattributes", "README.md")]
    check(dataset, initial, None)
    foreign = [*initial, RemoteFile("train.csv", 5, None, "0")]
    with raises_user_error(REPO, "train.csv"):
        check(dataset, foreign, None)
    # beside the dataset they stay
    files = dataset.files()
    there = [*remote(files), *foreign[2:]]
    check(dataset, there, dataset.packed())
    assert compare(files, there).is_empty


@pytest.mark.parametrize("text", [b"{}", b'{"name": "app"}', b'["ab", "cd"]', b"{", b'{"a": 1}'])
def test_foreign_manifest_is_none(text):
    assert parse_manifest(text) is None
