"""The card's files, as the Hub and `datasets` read them."""

import ast
import copy
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from pipeline.card import example
from pipeline.card.card import write_card
from pipeline.card.template_context import GENERATOR_DESCRIPTIONS
from pipeline.exposure import MIDDLE_GREY
from pipeline.layout import RunFolder
from pipeline.run_settings import GENERATORS as KNOWN_GENERATORS
from pipeline.shards.reader import ShardReader, decode_ids
from pipeline.shards.schema import make_schema
from pipeline.shards.writer import pack
from pipeline.statistics.measure import measure
from tests.card.conftest import REPO
from tests.disks import little_space
from tests.errors import raises_user_error
from tests.hub.card import card_errors
from tests.synthetic import PASSES, SETTINGS, finish_scene

BLENDER = Path(example.__file__).parents[1] / "blender"

FIGURES = ["example.jpg"] + [
    f"{name}.png" for name in ("sizes", "instances", "categories", "solid_angles", "positions")
]


def constants(module):
    """The constants of a module that needs Blender to be imported."""
    tree = ast.parse((BLENDER / f"{module}.py").read_text())
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.Tuple)
    }


def test_the_hub_accepts_the_metadata(published):
    assert card_errors(published.readme) == []
    data = DatasetCard.load(published.folder / "README.md").data
    assert data.license == "cc-by-4.0"
    assert data.size_categories == "n<1K"
    assert data.task_categories[-1] == "depth-estimation"
    assert "infinigen" not in data.tags  # only the spheres test scene


def test_metadata_describes_every_shard(published):
    data = DatasetCard.load(published.folder / "README.md").data
    paths = sorted(published.folder.glob("data/*.parquet"))
    assert len(paths) > 2
    preview, config = data.configs
    assert (preview["config_name"], preview["default"]) == ("preview", True)
    assert config["config_name"] == "full"
    named = {entry["split"]: entry["path"] for entry in config["data_files"]}
    for split, names in named.items():
        assert names == [f"data/{path.name}" for path in paths if path.name.startswith(split)]
    (about,) = [entry for entry in data.dataset_info if entry["config_name"] == "full"]
    info = datasets.DatasetInfo._from_yaml_dict(about)
    features = datasets.Features.from_arrow_schema(make_schema(PASSES.passes))
    assert info.features == features
    assert {name: split.num_examples for name, split in info.splits.items()} == {
        "train": 4,
        "validation": 4,
    }
    size = sum(path.stat().st_size for path in paths)
    assert info.download_size == info.dataset_size == size
    assert sum(split.num_bytes for split in info.splits.values()) == size


def test_datasets_opens_the_folder(published, tmp_path):
    dataset = datasets.load_dataset(str(published.folder), "full", cache_dir=str(tmp_path))
    assert list(dataset) == ["train", "validation"]
    for split, rows in dataset.items():
        assert len(rows) == 4
        row, ours = rows[0], ShardReader(published.folder, split).row(0)
        assert row["image"].size == (256, 128)
        assert row["image_id"] == ours["image_id"]
        np.testing.assert_array_equal(np.array(row["ids"]), decode_ids(ours["ids"]))


def test_links_of_the_card_resolve(published):
    links = re.findall(r"\]\((?!https://)([^)]+)\)", published.readme)
    assert {f"figures/{name}" for name in FIGURES} | {
        *("LICENSE", "statistics.json", "croissant.json")
    } == set(links)
    for link in links:
        assert (published.folder / link).is_file()
    with Image.open(published.folder / "figures" / "example.jpg") as picture:
        assert picture.size == (256, 128 + example.GAP + 128)


def test_no_template_syntax_remains(published):
    assert not re.search(r"\{%|%\}|\{\{ | \}\}|\bNone\b|Undefined", published.readme)
    assert "\n\n\n" not in published.readme.split("```bibtex")[0]
    assert not re.search(r"[ \t]$", published.readme, re.MULTILINE)


def test_equal_arguments_give_equal_bytes(published, tmp_path):
    write_card(
        published.folder,
        tmp_path,
        repo=REPO,
        licence="cc-by-4.0",
        statistics=published.statistics,
    )
    names = ["README.md", "LICENSE", "statistics.json", "croissant.json"]
    names += [f"figures/{name}" for name in FIGURES]
    names += [f"preview/{split}-00000.parquet" for split in ("train", "validation")]
    assert sorted(names) == sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()
    )
    for name in names:
        assert (tmp_path / name).read_bytes() == (published.folder / name).read_bytes()


def test_card_omits_what_the_dataset_lacks(tmp_path):
    """No train split, no depth, no name on the Hub, a licence text of the user."""
    run = RunFolder(tmp_path / "out")
    finish_scene(run)
    pack(run, SETTINGS, validation_fraction=1)
    terms = tmp_path / "terms.txt"
    terms.write_text("Do what you like.\n")
    readme = write_card(
        run.shards,
        tmp_path / "card",
        repo=None,
        licence=str(terms),
        statistics=measure(ShardReader(run.shards)),
    )
    text = readme.read_text()
    assert card_errors(text) == []
    data = DatasetCard.load(readme).data
    assert (data.license, data.license_name, data.license_link) == ("other", "terms", "LICENSE")
    assert (tmp_path / "card" / "LICENSE").read_text() == terms.read_text()
    assert 'load_dataset("USER/DATASET", "full")' in text
    assert 'dataset["validation"][0]' in text and "train-" not in text
    assert "epth" not in text.split("## What a row holds")[0].replace("millimetres", "")
    assert "{{" not in text.split("```bibtex")[0]


def card_of(published, folder, statistics):
    """The card of the same shards with other statistics."""
    readme = write_card(
        published.folder, folder, repo=REPO, licence="cc-by-4.0", statistics=statistics
    )
    return readme.read_text()


@pytest.mark.parametrize("generator", ["spheres", "indoors"])
def test_only_indoor_generators_are_furnished_rooms(published, tmp_path, generator):
    statistics = copy.deepcopy(published.statistics)
    statistics["generators"] = {generator: statistics["generators"]["spheres"]}
    statistics["total"]["instances"]["sizes"]["small"]["percent"] = 90.0
    text = card_of(published, tmp_path, statistics)
    words = " ".join(text.split())
    assert not re.search(r"\b1 (panoramas|scenes|pixels|samples)\b", words)
    after = "\n| made with | |\n|---|---|\n"
    indoor = [
        "360° panoramas of furnished rooms",
        "above free floor of furnished rooms, 1.0",
        "against 37.84 %): most objects that the generator places are small things on shelves and "
        "tables. -",
    ]
    elsewhere = [
        "360° panoramas of a test scene",
        "above free floor, 1.0",
        "against 37.84 %). -",
    ]
    present, absent = (indoor, elsewhere) if generator == "indoors" else (elsewhere, indoor)
    assert all(part in words for part in present)
    assert not any(part in words for part in absent)
    assert (f"{after}| InfiniGen | " in text) == (generator == "indoors")
    assert (f"{after}| Blender (Cycles) | " in text) == (generator == "spheres")


def test_size_thresholds_are_integers(published, tmp_path):
    """At 256 × 128 medium begins at 109.2 pixels, so that an area of 109 is small."""
    words = " ".join(published.readme.split())
    assert "at 256 × 128, `medium` begins at 110 pixels and `large` at 984. The smallest" in words
    statistics = copy.deepcopy(published.statistics)
    for area, expected in ((1, 2), (None, 0)):
        statistics["total"]["smallest_area"] = area
        text = card_of(published, tmp_path, statistics)
        assert len(re.findall(r"\b1 pixel\b", text)) == expected
        assert not re.search(r"\b[01] pixels", text)
        assert len(re.findall(r"smallest\s+annotated (?!area)", text)) == expected


def test_full_disk_is_a_user_error(published, tmp_path):
    folder = tmp_path / "small"
    with little_space(folder, 20_000):
        with raises_user_error(folder):
            write_card(
                published.folder,
                folder,
                repo=REPO,
                licence="cc-by-4.0",
                statistics=published.statistics,
            )
        assert not (folder / "README.md").exists()
        assert not list(folder.rglob("*.tmp"))


def test_statistics_of_other_shards_are_refused(published, tmp_path):
    statistics = measure(ShardReader(published.folder, "train"))
    with raises_user_error({"train": 4}, published.folder):
        write_card(
            published.folder, tmp_path / "card", repo=None, licence="odbl", statistics=statistics
        )
    assert not (tmp_path / "card").exists()


def test_card_quotes_the_camera_constants_of_the_code(published):
    viewpoints = constants("viewpoints")
    text = " ".join(published.readme.split())
    assert "{}–{} m high".format(*viewpoints["EYE_HEIGHT"]) in text
    assert f"nothing closer than {viewpoints['CLEARANCE']} m" in text
    assert f"at least {viewpoints['MIN_DISTANCE']} m from the others" in text
    assert viewpoints["MIN_FURNITURE"] == example.FURNITURE
    assert "brought to middle grey" in text and MIDDLE_GREY == 0.18


def test_every_generator_is_described():
    assert tuple(GENERATOR_DESCRIPTIONS) == (*KNOWN_GENERATORS, "files")
