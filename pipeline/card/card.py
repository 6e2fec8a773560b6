"""Write the dataset card of a folder of shards: README.md, LICENSE, statistics.json, figures.

The words are in dataset_card/README.md.jinja; this module says what they are filled with. The
YAML at the head, which the Hub and `datasets` read, names every shard: a commit that brings new
shards and the new card switches the dataset over in one step.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import (
    DatasetInfo,
    Features,
    SplitDict,
    SplitInfo,
)
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from pipeline.card import template_context as words
from pipeline.card.example import example
from pipeline.card.licences import CARD_FOLDER, Licence, read_licence
from pipeline.errors import UserError
from pipeline.layout import disk_full_as_user_error, write_json
from pipeline.shards.files import open_folder
from pipeline.shards.manifest import Shard, find_shards
from pipeline.shards.reader import ShardReader
from pipeline.shards.schema import SPLITS
from pipeline.statistics.figures import draw_figures
from pipeline.storage import write_atomic

TEMPLATE = CARD_FOLDER / "README.md.jinja"
PRETTY_NAME = "SAP Panorama"
TASKS = ["image-segmentation", "mask-generation", "object-detection"]
TAGS = ["panorama", "360", "equirectangular", "instance-segmentation", "synthetic", "coco"]

Statistics = Mapping[str, Any]


def write_card(
    shards: Path | str,
    folder: Path,
    *,
    repo: str | None,
    licence: str,
    statistics: dict[str, Any],
    pretty_name: str = PRETTY_NAME,
    storage_options: Mapping[str, Any] | None = None,
) -> Path:
    """Write the card of a dataset; the same input gives the same bytes.

    Args:
        shards: The dataset: a folder or a URL, as `ShardReader` takes it.
        folder: Where README.md, LICENSE, statistics.json and figures/ go.
        repo: The dataset's name on the Hub (`user/name`), for the examples of code.
        licence: One of `pipeline.card.licences.NAMES`, or the path of a text file.
        statistics: What `pipeline.statistics.measure` says about these shards.
        pretty_name: The card's title.
        storage_options: What fsspec is told besides the URL.

    Returns:
        Path of the README.md.

    Raises:
        UserError: The licence is none, the statistics are of other shards, the shards cannot be
            read, or the disk is full. README.md is then what it was before.
    """
    chosen = read_licence(licence)
    reader = ShardReader(shards, storage_options=storage_options)
    measured = {name: group["panoramas"] for name, group in statistics["splits"].items()}
    if measured != reader.splits:
        raise UserError(
            f"the statistics are of {measured}, but {shards} holds {reader.splits}; measure again"
        )
    where, found = find_shards(open_folder(shards, storage_options), None)
    with where.open(found[0].name, found[0].bytes) as file:
        schema = pq.read_schema(file)
    picture, image_id = example(reader)
    card = DatasetCard.from_template(
        metadata(schema, found, statistics, chosen, pretty_name),
        template_path=str(TEMPLATE),
        **words.words(schema, statistics, repo),
        licence=chosen,
        example=image_id,
    )
    readme = folder / "README.md"
    full = f"no room for the card in {folder}; free some space and run the same command again"
    with disk_full_as_user_error(full):
        write_atomic(folder / "LICENSE", chosen.text.encode())
        write_json(folder / "statistics.json", statistics)
        draw_figures(statistics, folder / "figures")
        write_atomic(folder / "figures" / "example.jpg", picture)
        write_atomic(readme, f"{card}\n".encode())
    return readme


def metadata(
    schema: pa.Schema,
    shards: list[Shard],
    statistics: Statistics,
    licence: Licence,
    pretty_name: str = PRETTY_NAME,
) -> DatasetCardData:
    """The YAML at the head of the card.

    Bytes are those of the Parquet files: most of them are images, which are compressed already.
    """
    names = {split: [s for s in shards if s.name.startswith(f"{split}-")] for split in SPLITS}
    names = {split: own for split, own in names.items() if own}
    sizes = {split: sum(shard.bytes or 0 for shard in own) for split, own in names.items()}
    total = statistics["total"]
    generators = [name for name in statistics["generators"] if name != "spheres"]
    passes = [name for name in ("depth", "normal") if name in schema.names]
    chosen: dict[str, Any] = licence.metadata
    data = DatasetCardData(
        **chosen,
        pretty_name=pretty_name,
        task_categories=TASKS + ["depth-estimation"] * ("depth" in passes),
        tags=[*TAGS, *(["infinigen"] if generators else []), "blender", *passes],
        size_categories=size_category(total["panoramas"]),
        annotations_creators="machine-generated",
        source_datasets=["original"],
        configs=[
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": [f"data/{shard.name}" for shard in own]}
                    for split, own in names.items()
                ],
            }
        ],
    )
    splits = SplitDict()
    for split, size in sizes.items():
        panoramas = statistics["splits"][split]["panoramas"]
        splits.add(SplitInfo(split, num_bytes=size, num_examples=panoramas))
    info = DatasetInfo(
        features=Features.from_arrow_schema(schema),
        splits=splits,
        download_size=sum(sizes.values()),
        dataset_size=sum(sizes.values()),
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    return data


def size_category(rows: int) -> str:
    """The Hub's word for a number of rows.

    >>> size_category(999), size_category(1000), size_category(183_440)
    ('n<1K', '1K<n<10K', '100K<n<1M')
    """
    steps = ["1K", "10K", "100K", "1M", "10M"]
    k = min(len(str(rows)) - 3, len(steps) - 1)
    return f"{steps[k - 1]}<n<{steps[k]}" if k > 0 else "n<1K"
