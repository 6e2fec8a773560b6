"""The card's examples of code run as they stand, against a local copy as the card describes it."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from pycocotools.coco import COCO

from pipeline.shards.reader import ShardReader, decode_ids
from tests.card.conftest import REPO


@pytest.fixture(scope="module")
def ran(published, tmp_path_factory):
    """The folder in which all examples were run, one after the other, and what they printed."""
    text = published.readme
    assert f"in place of `{REPO}`, and of `hf://datasets/{REPO}`" in text
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    local = str(published.folder)
    blocks = [
        block.replace(f"hf://datasets/{REPO}", local).replace(REPO, local) for block in blocks
    ]
    folder = tmp_path_factory.mktemp("examples")
    program = f"for block in {blocks!r}:\n    exec(block, names := {{}})\n"
    program += "print(names['metres'].max(), names['normal'].shape)\n"
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", program],
        cwd=folder,
        env={**os.environ, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return folder, done.stdout


def test_examples_print_what_the_shards_hold(ran, published):
    _, output = ran
    train = list(ShardReader(published.folder, "train").annotations())
    first = train[0]
    assert f"{first['image_id']} (256, 128) {len(first['objects'])}" in output
    balls = sum(thing["category"] == "ball" for row in train for thing in row["objects"])
    assert re.search(rf"^ball +{balls}$", output, re.MULTILINE)
    assert "3.0 (128, 256, 3)" in output  # half a metre for each id, up to 6


def test_the_coco_folder_is_one(ran, published):
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


def test_masks_of_the_coco_folder_are_those_of_the_id_map(ran, published):
    folder, _ = ran
    row = ShardReader(published.folder, "train").row(0)
    coco = COCO(str(folder / "coco" / "instances_train.json"))
    for annotation, thing in zip(coco.loadAnns(coco.getAnnIds([1])), row["objects"], strict=True):
        np.testing.assert_array_equal(
            coco.annToMask(annotation) > 0, decode_ids(row["ids"]) == thing["id"]
        )
