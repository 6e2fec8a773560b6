"""From finished scenes to a published dataset that other programs load, by the commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.layout import RunFolder, write_json
from pipeline.run_settings import settings_hash, to_json, versions
from tests.hub.server import Hub
from tests.synthetic import SETTINGS, finish_scene

ROOT = Path(__file__).parents[1]
REPO = "user/panoramas"
SEEDS = range(10)  # one of ten scenes is drawn for validation


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """A packed run of ten finished scenes."""
    run = RunFolder(tmp_path_factory.mktemp("commands") / "out")
    for seed in SEEDS:
        finish_scene(run, seed=seed)
    about = {"settings": to_json(SETTINGS), "versions": versions()}
    write_json(run.settings, {**about, "settings_hash": settings_hash(SETTINGS)})
    pipeline("shards", "--out", str(run.path))
    return run


@pytest.fixture(scope="module")
def hub():
    with Hub() as hub:
        yield hub


def pipeline(*arguments: str, status: int = 0, **options) -> str:
    """Output of a command; its errors if status 2 is expected."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        **options,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status != 2 else done.stderr


def test_verify_stats_and_coco(run):
    out = ["--out", str(run.path)]
    assert pipeline("verify", *out).endswith("20 panoramas in 2 shards: no findings\n")
    said = pipeline("stats", *out)
    assert "20 panoramas (18 train, 2 validation) of 10 scenes" in said
    statistics = json.loads((run.card / "statistics.json").read_text())
    assert statistics["total"]["panoramas"] == 20
    assert (run.card / "figures" / "sizes.png").read_bytes().startswith(b"\x89PNG")
    said = pipeline("coco", *out, "--license", "cc0-1.0")
    assert "train: 18 images" in said and "validation: 2 images" in said
    about = json.loads((run.coco / "annotations" / "instances_validation.json").read_text())
    assert about["licenses"][0]["name"] == "Creative Commons CC0 1.0 Universal (CC0 1.0)"


def test_damaged_shard_fails_verify_and_is_not_published(run, hub, tmp_path):
    damaged = RunFolder(tmp_path / "out")
    shutil.copytree(run.path, damaged.path)
    path = damaged.shards / "data" / "train-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "is not the file that was packed" in pipeline(
        "verify", "--out", str(damaged.path), status=1
    )
    publish = ["publish", "--out", str(damaged.path), "--repo", "user/bad", "--license", "cc0-1.0"]
    environment = hub.environment(tmp_path / "home")
    said = pipeline(*publish, status=2, env=environment)
    assert "nothing was sent. make verify lists them all" in said and said.count("\n") == 1
    assert "user/bad" not in hub.repos


@pytest.fixture(scope="module")
def published(run, hub, tmp_path_factory):
    """The address of the dataset on the Hub, after a dry run and an upload."""
    home = tmp_path_factory.mktemp("home")
    licence = home / "my licence.txt"
    licence.write_text("Do as you like.\n")
    publish = ["publish", "--out", str(run.path), "--repo", REPO, "--license", str(licence)]
    environment = hub.environment(home)
    said = pipeline(*publish, "--dry-run", "1", env=environment)
    assert "nothing was sent" in said and hub.repos.keys() <= {"user/bad"}
    said = pipeline(*publish, env=environment)
    assert f"published: {hub.url}/datasets/{REPO}" in said
    assert hub.token not in said
    return f"hf://datasets/{REPO}"


def test_published_files(run, hub, published):
    repo = hub.repos[REPO]
    files = repo.files()
    assert repo.private and len(repo.commits) == 2
    assert {"README.md", "LICENSE", "statistics.json", "manifest.json"} < files.keys()
    assert files["LICENSE"] == b"Do as you like.\n"
    for path in (run.shards / "data").iterdir():
        assert files[f"data/{path.name}"] == path.read_bytes()
    assert b"license_name: my-licence" in files["README.md"]


def test_publishing_again_uploads_nothing(run, hub, published, tmp_path):
    before = len(hub.uploads)
    licence = tmp_path / "my licence.txt"
    licence.write_text("Do as you like.\n")
    publish = ["publish", "--out", str(run.path), "--repo", REPO, "--license", str(licence)]
    said = pipeline(*publish, env=hub.environment(tmp_path / "home"))
    assert "nothing to upload" in said
    assert len(hub.uploads) == before and len(hub.repos[REPO].commits) == 2


LOAD = """
import datasets, numpy as np, sys
streaming = sys.argv[1] == "True"
found = datasets.load_dataset("user/panoramas", "full", streaming=streaming)
rows = {split: list(found[split]) for split in found}
print({split: len(rows[split]) for split in rows})
for row in rows["train"] + rows["validation"]:
    assert row["image"].size == (256, 128) and row["image"].mode == "RGB"
    ids = np.array(row["ids"])
    for thing in row["objects"]:
        assert np.count_nonzero(ids == thing["id"]) == thing["area"]
"""

FRAMES = """
import pandas, pyarrow.parquet
from huggingface_hub import HfFileSystem
from pycocotools import mask
folder = "datasets/user/panoramas/data/"
frame = pandas.read_parquet(
    "hf://" + folder + "train-00000.parquet", columns=["image_id", "objects"]
)
for thing in frame["objects"][0]:
    rle = thing["segmentation"]
    assert mask.area({"size": list(rle["size"]), "counts": rle["counts"]}) == thing["area"]
count = 0
for path in HfFileSystem().glob(folder + "*.parquet"):
    with HfFileSystem().open(path) as file:
        count += len(pyarrow.parquet.ParquetFile(file).read(columns=["image_id"]))
print(len(frame), count)
"""

READ = """
from pipeline.shards.reader import ShardReader, decode_image
reader = ShardReader("hf://datasets/user/panoramas", "validation")
print(len(reader), decode_image(reader.row(1)["image"]).shape, len(list(reader.annotations())))
"""


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_loads_it(hub, published, tmp_path, streaming):
    said = hub.run(LOAD, tmp_path, str(streaming), token=hub.read_token)
    assert said == "{'train': 18, 'validation': 2}\n"


def test_pandas_and_pyarrow_read_it(hub, published, tmp_path):
    assert hub.run(FRAMES, tmp_path, token=hub.read_token) == "18 20\n"


def test_shard_reader_reads_it_from_the_hub(hub, published, tmp_path):
    assert hub.run(READ, tmp_path, token=hub.read_token) == "2 (128, 256, 3) 2\n"


def test_it_can_be_verified_on_the_hub(hub, published, tmp_path):
    environment = hub.environment(tmp_path, token=hub.read_token)
    assert "20 panoramas in 2 shards: no findings" in pipeline(
        "verify", "--data", published, "--workers", "1", env=environment
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["publish", "--license", "cc0-1.0"], "REPO is not given"),
        (["publish", "--repo", REPO], "LICENSE is not given, and it is your choice"),
        (["publish", "--repo", REPO, "--license", "mit"], "LICENSE=mit"),
        (["card"], "LICENSE is not given"),
        (["coco", "--format", "gif"], "FORMAT=gif is unknown"),
        (["verify", "--workers", "0"], "WORKERS=0 is out of range"),
        (["verify", "--data", "nowhere"], "nowhere holds no shards to verify"),
        (["stats", "--data", "nowhere"], "nowhere holds no shards"),
    ],
)
def test_wrong_setting_is_a_user_error(run, arguments, message):
    command, *rest = arguments
    said = pipeline(command, "--out", str(run.path), *rest, status=2)
    assert message in said and said.count("\n") == 1
