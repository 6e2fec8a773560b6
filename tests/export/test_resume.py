"""Repeated exports: after a kill, on a full disk, over damaged or foreign files."""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
import sys

import fsspec
import pytest

from pipeline.export.coco import export_coco
from tests.disks import little_space
from tests.errors import raises_user_error
from tests.export.exports import (
    ROOT,
    SPLITS,
    named,
    tree,
    write_shards,
)


@pytest.mark.parametrize("image_format", ["webp", "png", "jpg"])
def test_repeated_export_writes_nothing(finished, tmp_path, image_format):
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
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "changed", "swapped"])
def test_damaged_image_is_rewritten(rows, tmp_path, image_format, damage):
    shards = write_shards(tmp_path / "shards", train=[named(row, s) for s, row in enumerate(rows)])
    export_coco(shards, tmp_path / "coco", image_format)
    before = tree(tmp_path / "coco")
    first, second = sorted((tmp_path / "coco" / "train").iterdir())[:2]
    data = first.read_bytes()
    if damage == "missing":
        first.unlink()
    elif damage == "swapped":
        shutil.copy(second, first)
    else:
        changed = b"x" * len(data)
        first.write_bytes({"empty": b"", "truncated": data[:-5], "changed": changed}[damage])
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
    """Export in a process that is killed while it writes the file with this number."""
    arguments = [sys.executable, "-c", KILLED, str(before_file), str(shards), str(folder)]
    assert subprocess.run(arguments, cwd=ROOT).returncode == -signal.SIGKILL


@pytest.mark.parametrize("before_file", [0, 3, 9])  # the first image, one later, the second JSON
def test_killed_export_resumes(finished, tmp_path, before_file):
    export_and_be_killed(finished.shards, tmp_path / "coco", before_file)
    half = tree(tmp_path / "coco")
    assert any(name.endswith(".tmp") for name in half)
    complete = {name: data for name, data in half.items() if not name.endswith(".tmp")}
    assert len(complete) == before_file
    summary = export_coco(finished.shards, tmp_path / "coco", "png")
    assert summary.unchanged == min(before_file, 8)
    export_coco(finished.shards, tmp_path / "straight", "png")
    after = tree(tmp_path / "coco")
    assert after == tree(tmp_path / "straight")
    assert complete.items() <= after.items()


def test_only_own_leftovers_are_removed(finished, tmp_path):
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


def test_images_outside_the_dataset_stay_and_are_reported(rows, tmp_path):
    export_coco(write_shards(tmp_path / "a", train=rows[:3], validation=rows[4:5]), tmp_path / "c")
    lost = export_coco(write_shards(tmp_path / "b", train=rows[:2]), tmp_path / "c").unlisted
    assert lost == (
        "train/spheres-0000000001-0.webp",
        "validation/spheres-0000000002-0.webp",
    )
    assert all((tmp_path / "c" / name).exists() for name in lost)
    assert not (tmp_path / "c" / "annotations" / "instances_validation.json").exists()
    lost = export_coco(tmp_path / "b", tmp_path / "c", "jpg").unlisted
    assert len(lost) == 4  # of the other format


def skip_unless_small(folder, size):
    """Skip where `little_space` can only limit single files, which stay below that limit here."""
    if size > 20_000 and not folder.is_mount():
        pytest.skip("needs the right to mount a tmpfs")


@pytest.mark.parametrize("image_format", ["webp", "png"])
@pytest.mark.parametrize("size", [20_000, 300_000, 600_000])  # first image, a later one, JSON
def test_full_disk_leaves_complete_files(finished, tmp_path, size, image_format):
    folder = tmp_path / "small"
    with little_space(folder, size):
        skip_unless_small(folder, size)
        with raises_user_error(folder):
            export_coco(finished.shards, folder, image_format)
        left = tree(folder)
        assert not any(name.endswith((".tmp", ".json")) for name in left)
        shutil.copytree(folder, tmp_path / "copy")
    export_coco(finished.shards, tmp_path / "copy", image_format)
    after = tree(tmp_path / "copy")
    assert left.items() <= after.items()
    assert len(after) == 10


def test_full_disk_keeps_the_old_json(rows, tmp_path):
    shards = write_shards(tmp_path / "a", train=rows[:1], validation=rows[2:3])
    folder = tmp_path / "small"
    with little_space(folder, 250_000):
        skip_unless_small(folder, 250_000)
        export_coco(shards, folder)
        before = tree(folder)
        more = write_shards(tmp_path / "b", train=rows[:2] + rows[4:], validation=rows[2:4])
        with raises_user_error(folder):
            export_coco(more, folder)
        assert before.items() <= tree(folder).items()


def test_concurrent_exports_are_rejected(finished, tmp_path):
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        with raises_user_error(tmp_path):
            export_coco(finished.shards, tmp_path)
    export_coco(finished.shards, tmp_path)


def test_remote_shards_give_the_same_export(finished, exported, tmp_path):
    fsspec.filesystem("memory").put(str(finished.shards), "/coco-test", recursive=True)
    export_coco("memory://coco-test", tmp_path)
    assert tree(tmp_path) == tree(exported)
