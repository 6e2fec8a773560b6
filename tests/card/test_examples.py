"""The card's code examples run verbatim on a local copy, as the card promises."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools.coco import COCO

from pipeline.card.card import write_card
from pipeline.shards.reader import ShardReader, decode_ids
from pipeline.shards.schema import make_schema
from pipeline.statistics.measure import measure
from tests.card.conftest import REPO
from tests.hub.server import Hub
from tests.synthetic import EYE, PASSES


@pytest.fixture(scope="module")
def ran(published, tmp_path_factory):
    """Run all examples one after another: their working folder and their output."""
    text = published.readme
    assert f"in place of `{REPO}`.\n" in text
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 7
    local = str(published.folder)
    blocks = [block.replace(REPO, local) for block in blocks]
    folder = tmp_path_factory.mktemp("examples")
    program = f"for block in {blocks!r}:\n    exec(block, names := {{}})\n"
    program += "    all_names = {**globals().get('all_names', {}), **names}\n"
    program += "names = all_names\n"
    program += "print(names['metres'].max(), names['normal'].shape)\n"
    program += "print('points', *names['points'][64, 128].round(3), len(names['corners']))\n"
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", program],
        cwd=folder,
        env={**os.environ, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return folder, done.stdout


def test_examples_print_the_shards_content(ran, published):
    _, output = ran
    train = list(ShardReader(published.folder, "train").annotations())
    first = train[0]
    assert f"{first['image_id']} (256, 128) {len(first['objects'])}" in output
    balls = sum(thing["category"] == "ball" for row in train for thing in row["objects"])
    assert re.search(rf"^ball +{balls}$", output, re.MULTILINE)
    metres = decode_ids(ShardReader(published.folder, "train").row(0)["depth"]) / 1000
    assert f"{metres.max()} (128, 256, 3)" in output
    x, y, z = map(float, re.search(r"^points (\S+) (\S+) (\S+) 8$", output, re.M).groups())
    assert np.linalg.norm([x, y, z - EYE]) == pytest.approx(metres[64, 128], abs=2e-3)


def test_pycocotools_reads_the_exported_folder(ran, published):
    folder, _ = ran
    for split in ("train", "validation"):
        coco = COCO(str(folder / "coco" / f"instances_{split}.json"))
        for number, row in enumerate(ShardReader(published.folder, split).annotations(), start=1):
            (image,) = coco.loadImgs([number])
            picture = folder / "coco" / split / image["file_name"]
            assert picture.read_bytes()[:4] == b"RIFF"
            annotations = coco.loadAnns(coco.getAnnIds([number]))
            assert len(annotations) == len(row["objects"])
            for annotation, thing in zip(annotations, row["objects"], strict=True):
                (category,) = coco.loadCats([annotation["category_id"]])
                assert category["name"] == thing["category"]
                assert coco.annToMask(annotation).sum() == thing["area"] == annotation["area"]
    files = [json.loads(path.read_text()) for path in sorted((folder / "coco").glob("*.json"))]
    assert files[0]["categories"] == files[1]["categories"]


def test_exported_masks_equal_the_id_map(ran, published):
    folder, _ = ran
    row = ShardReader(published.folder, "train").row(0)
    coco = COCO(str(folder / "coco" / "instances_train.json"))
    for annotation, thing in zip(coco.loadAnns(coco.getAnnIds([1])), row["objects"], strict=True):
        np.testing.assert_array_equal(
            coco.annToMask(annotation) > 0, decode_ids(row["ids"]) == thing["id"]
        )


PUBLISH = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo(sys.argv[1], repo_type="dataset", private=True)
api.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2], repo_type="dataset")
"""


def test_reading_annotations_downloads_no_images(published, tmp_path):
    """Eight panoramas with 2 MB of depth each, and a shard that the card does not name yet."""
    repo, folder = "user/panoramas", tmp_path / "dataset"
    rows = list(map(ShardReader(published.folder).row, range(8)))
    for row in rows:
        row["depth"]["bytes"] = os.urandom(2 * 10**6)
    schema = make_schema(PASSES.passes)
    shards = [folder / "data" / f"train-{number:05d}.parquet" for number in range(2)]
    shards[0].parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), shards[0], row_group_size=1)
    statistics = measure(ShardReader(folder))
    write_card(folder, folder, repo=repo, licence="cc-by-4.0", statistics=statistics)
    pq.write_table(pa.Table.from_pylist(rows[:1], schema), shards[1], row_group_size=1)
    (block,) = re.findall(
        r"^```python\n(import pandas.*?)^```$",
        (folder / "README.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    block += "print(sorted(set(instances['image_id'])), len(instances))\n"
    with Hub() as hub:
        hub.run(PUBLISH, tmp_path / "publisher", repo, str(folder), xet=False)
        hub.requests.clear()
        said = hub.run(block, tmp_path / "home", token=hub.read_token, xet=False)
        fetched, replies = 0, [r for r in hub.requests if r.method == "GET"]
    for reply in replies:  # data comes from the storage; the Hub redirects to it
        assert reply.status != 200 or "Range" not in reply.headers
        if reply.status == 206:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", reply.headers["Range"]).groups()
            fetched += int(last) + 1 - int(first)
    ids = sorted(row["image_id"] for row in rows)
    assert said.endswith(f"{ids} {sum(len(row['objects']) for row in rows)}\n")
    assert 10_000 < fetched < 0.03 * shards[0].stat().st_size
