"""Exporting again: what is damaged or missing is made, whatever was killed or full before."""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
import sys

import fsspec
import pytest

from pipeline.errors import UserError
from pipeline.export.coco import export_coco
from tests.disks import little_space
from tests.export.exports import (
    ROOT,
    SPLITS,
    assert_one_line,
    named,
    tree,
    write_shards,
)


@pytest.mark.parametrize("image_format", ["webp", "png", "jpg"])
def test_exporting_again_writes_no_image_and_the_same_bytes(finished, tmp_path, image_format):
    steps = []
    export_coco(finished.shards, tmp_path, image_format, progress=lambda *step: steps.append(step))
    assert steps == [(done, 8) for done in range(1, 9)]
    before = tree(tmp_path)
    images = [path for split in SPLITS for path in (tmp_path / split).iterdir()]
    inodes = [path.stat().st_ino for path in images]
    summary = export_coco(finished.shards, tmp_path, image_format)
    assert (summary.written, summary.unchanged) == (0, 8)
    assert [path.stat().st_ino for path in images] == inodes
    assert tree(tmp_path) == before
    export_coco(finished.shards, tmp_path / "other", image_format)
    assert tree(tmp_path / "other") == before


@pytest.mark.parametrize("image_format", ["webp", "png", "jpg"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "changed", "of another picture"])
def test_a_damaged_image_is_written_again(rows, tmp_path, image_format, damage):
    shards = write_shards(tmp_path / "shards", train=[named(row, s) for s, row in enumerate(rows)])
    export_coco(shards, tmp_path / "coco", image_format)
    before = tree(tmp_path / "coco")
    first, second = sorted((tmp_path / "coco" / "train").iterdir())[:2]
    data = first.read_bytes()
    if damage == "missing":
        first.unlink()
    elif damage == "of another picture":
        shutil.copy(second, first)
    else:
        changed = b"x" * len(data)
        first.write_bytes({"empty": b"", "cut": data[:-5], "changed": changed}[damage])
    assert export_coco(shards, tmp_path / "coco", image_format).written == 1
    assert tree(tmp_path / "coco") == before


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.export.coco import export_coco

replace, left = os.replace, int(sys.argv[1])

def replace_or_die(source, target):
    global left
    if not left:
        os.truncate(source, os.path.getsize(source) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    replace(source, target)

os.replace = replace_or_die
export_coco(sys.argv[2], Path(sys.argv[3]), "png")
"""


def export_and_be_killed(shards, folder, before_file):
    """Export in a process that is killed while it writes the file of this number."""
    arguments = [sys.executable, "-c", KILLED, str(before_file), str(shards), str(folder)]
    assert subprocess.run(arguments, cwd=ROOT).returncode == -signal.SIGKILL


@pytest.mark.parametrize("before_file", [0, 3, 9])  # the first image, one later, the second JSON
def test_a_killed_export_goes_on(finished, tmp_path, before_file):
    export_and_be_killed(finished.shards, tmp_path / "coco", before_file)
    half = tree(tmp_path / "coco")
    assert any(name.endswith(".tmp") for name in half)
    whole = {name: data for name, data in half.items() if not name.endswith(".tmp")}
    assert len(whole) == before_file
    summary = export_coco(finished.shards, tmp_path / "coco", "png")
    assert summary.unchanged == min(before_file, 8)
    export_coco(finished.shards, tmp_path / "straight", "png")
    after = tree(tmp_path / "coco")
    assert after == tree(tmp_path / "straight")
    assert whole.items() <= after.items()


def test_only_our_own_leftovers_are_removed(finished, tmp_path):
    ours = [
        tmp_path / "annotations" / ".instances_train.json.0123abcd.tmp",
        tmp_path / "validation" / ".spheres-0000000000-0.webp.0123abcd.tmp",
    ]
    others = [
        tmp_path / "annotations" / ".notes.txt.0123abcd.tmp",
        tmp_path / "annotations" / "captions_train.json",
        tmp_path / "train" / "notes.tmp",
        tmp_path / "train" / "holiday.webp",
    ]
    for path in ours + others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert export_coco(finished.shards, tmp_path).unlisted == ()
    assert not any(path.exists() for path in ours)
    assert all(path.read_bytes() == b"half" for path in others)


def test_images_that_the_dataset_lost_are_named_and_stay(rows, tmp_path):
    export_coco(write_shards(tmp_path / "a", train=rows[:3], validation=rows[4:5]), tmp_path / "c")
    lost = export_coco(write_shards(tmp_path / "b", train=rows[:2]), tmp_path / "c").unlisted
    assert lost == (
        "train/spheres-0000000001-0.webp",
        "validation/spheres-0000000002-0.webp",
    )
    assert all((tmp_path / "c" / name).exists() for name in lost)
    assert not (tmp_path / "c" / "annotations" / "instances_validation.json").exists()
    lost = export_coco(tmp_path / "b", tmp_path / "c", "jpg").unlisted
    assert len(lost) == 4  # those of the other format


def skip_unless_small(folder, size):
    """Where `little_space` can only limit each file, our small ones do not meet that limit."""
    if size > 20_000 and not folder.is_mount():
        pytest.skip("needs the right to mount a tmpfs")


@pytest.mark.parametrize("image_format", ["webp", "png"])
@pytest.mark.parametrize("size", [20_000, 300_000, 600_000])  # in the first image, later, in a JSON
def test_a_full_disk_keeps_what_was_there(finished, tmp_path, size, image_format):
    folder = tmp_path / "small"
    with little_space(folder, size):
        skip_unless_small(folder, size)
        with pytest.raises(UserError, match="the disk is full: no room for the export") as caught:
            export_coco(finished.shards, folder, image_format)
        assert_one_line(caught)
        left = tree(folder)
        assert not any(name.endswith((".tmp", ".json")) for name in left)
        shutil.copytree(folder, tmp_path / "copy")
    export_coco(finished.shards, tmp_path / "copy", image_format)
    after = tree(tmp_path / "copy")
    assert left.items() <= after.items()
    assert len(after) == 10


def test_an_old_json_outlives_a_full_disk(rows, tmp_path):
    shards = write_shards(tmp_path / "a", train=rows[:1], validation=rows[2:3])
    folder = tmp_path / "small"
    with little_space(folder, 250_000):
        skip_unless_small(folder, 250_000)
        export_coco(shards, folder)
        before = tree(folder)
        more = write_shards(tmp_path / "b", train=rows[:2] + rows[4:], validation=rows[2:4])
        with pytest.raises(UserError, match="the disk is full"):
            export_coco(more, folder)
        assert before.items() <= tree(folder).items()


def test_two_exports_into_one_folder_are_refused(finished, tmp_path):
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is exporting into"):
            export_coco(finished.shards, tmp_path)
    export_coco(finished.shards, tmp_path)


# Strangers' shards and folders


def test_shards_may_lie_elsewhere(finished, exported, tmp_path):
    fsspec.filesystem("memory").put(str(finished.shards), "/coco-test", recursive=True)
    export_coco("memory://coco-test", tmp_path)
    assert tree(tmp_path) == tree(exported)
