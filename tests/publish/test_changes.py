"""What would change, decided without a network."""

from __future__ import annotations

import hashlib
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.publish.changes import (
    LocalFile,
    RemoteFile,
    card_paths,
    describe,
    local_files,
    make_plan,
    refuse_foreign,
)
from pipeline.shards.manifest import parse_manifest

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


def refuse(dataset, there, published):
    refuse_foreign(there, published, dataset.files(), dataset.packed(), REPO)


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
    with pytest.raises(UserError, match="LICENSE is missing"):
        local_files({"LICENSE": dataset.folder / "LICENSE"}, {})


def test_nothing_but_the_card_is_taken_from_its_folder(tmp_path):
    for name in ("README.md", "figures/sizes.png", "figures/.cache/token", "notes.txt", ".token"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = ["README.md", "LICENSE", "statistics.json", "figures/sizes.png"]
    assert list(card_paths(tmp_path)) == names


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
    before, there = dataset.packed(), remote(dataset.files())
    dataset.shards(train=5, validation=2)
    plan = make_plan(dataset.files(), there)
    refuse(dataset, there, before)
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
    assert any(line.startswith("~ manifest.json") for line in lines)
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


@pytest.mark.parametrize("counts", [{"train": 1, "validation": 1}, {"train": 4, "validation": 1}])
def test_another_dataset_is_refused_however_small(dataset, counts):
    """Its rows are others: also where all of it is the last shard of each split."""
    dataset.shards(train=1, validation=1)
    published, there = dataset.packed(), remote(dataset.files())
    dataset.shards(run="other", **counts)
    with pytest.raises(UserError, match=r"holds another dataset: train-00000.* REPLACE=1"):
        refuse(dataset, there, published)


def test_a_larger_dataset_is_refused(dataset):
    published, there = dataset.packed(), remote(dataset.files())
    dataset.shards(train=2, validation=1)
    plan = make_plan(dataset.files(), there)
    assert plan.removed == ("data/train-00002.parquet",)
    with pytest.raises(UserError, match="holds another dataset"):
        refuse(dataset, there, published)


def test_the_rest_of_an_interrupted_upload_is_taken_over(dataset):
    """Shards that no manifest names were sent before an interruption; some have grown since."""
    before, there = dataset.packed(), remote(dataset.files())
    dataset.shards(train=5, validation=1)
    new = remote(dataset.files(), changed=["data/train-00004.parquet"])
    sent = [*there, *(f for f in new if "0003" in f.name or "0004" in f.name)]
    assert "data/train-00004.parquet" in {f.name for f in make_plan(dataset.files(), sent).changed}
    refuse(dataset, sent, before)


def test_shards_of_an_interrupted_first_upload(dataset):
    data = [file for file in remote(dataset.files()) if file.name.startswith("data/")]
    refuse(dataset, data, None)
    foreign = remote(dataset.files(), changed=["data/train-00002.parquet"])
    with pytest.raises(UserError, match=r"holds something else, such as data/train-00002\.parquet"):
        refuse(dataset, [f for f in foreign if f.name.startswith("data/")], None)


def test_files_of_others(dataset):
    begun = [RemoteFile(name, 5, None, "0") for name in (".gitattributes", "README.md")]
    refuse(dataset, begun, None)
    stranger = [*begun, RemoteFile("train.csv", 5, None, "0")]
    with pytest.raises(UserError, match=r"holds something else, such as train\.csv"):
        refuse(dataset, stranger, None)
    # beside our own dataset they stay
    files = dataset.files()
    there = [*remote(files), *stranger[2:]]
    refuse(dataset, there, dataset.packed())
    assert make_plan(files, there).is_done


@pytest.mark.parametrize("text", [b"{}", b'{"name": "app"}', b'["ab", "cd"]', b"{", b'{"a": 1}'])
def test_a_manifest_of_something_else_is_none(text):
    assert parse_manifest(text) is None
