"""Write the dataset card of a folder of shards: README.md, LICENSE, statistics.json, figures.

The text is in dataset_card/README.md.jinja; this module fills it in. The YAML at its head, which
the Hub and `datasets` read, names every shard, so one commit with new shards and the new card
switches all readers to the grown dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from pipeline.card.croissant import croissant
from pipeline.card.example import example_picture
from pipeline.card.licences import CARD_FOLDER, Licence, read_licence
from pipeline.card.preview_rows import preview_schema, write_previews
from pipeline.card.template_context import template_context
from pipeline.errors import UserError
from pipeline.layout import write_json
from pipeline.run_settings import PASSES
from pipeline.shards.manifest import Shard, find_shards
from pipeline.shards.reader import ShardReader
from pipeline.shards.schema import SPLITS
from pipeline.statistics.figures import draw_figures
from pipeline.storage import disk_full_as_user_error, open_path, write_atomic
from pipeline.storage.ranges import open_ranges

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
) -> Path:
    """Write the card of a dataset. Equal arguments give equal bytes.

    Args:
        shards: A folder or URL of shards, as for `ShardReader`.
        folder: The output folder of README.md, LICENSE, statistics.json and figures/.
        repo: The dataset's name on the Hub (`user/name`), used in the code examples.
        licence: A key of `pipeline.card.licences.LICENCES`, or the path of a text file.
        statistics: The statistics of these shards, from `pipeline.statistics.measure`.

    Returns:
        Path of README.md.

    Raises:
        UserError: The licence is unknown, the statistics belong to other shards, a shard cannot be
            read, or the disk is full. README.md then stays as it was.
    """
    chosen = read_licence(licence)
    reader = ShardReader(shards)
    measured = {name: group["panoramas"] for name, group in statistics["splits"].items()}
    if measured != reader.splits:
        raise UserError(
            f"the statistics count {measured}, but {shards} holds {reader.splits}; measure again"
        )
    where, found = find_shards(open_path(shards, read_only=True), None)
    with open_ranges(where / found[0].name, found[0].bytes) as file:
        schema = pq.read_schema(file)
    picture, image_id = example_picture(reader)
    full = f"no room for the card in {folder}; free some space and run the same command again"
    with disk_full_as_user_error(full):
        previews = write_previews(reader, folder / "preview")
    card = DatasetCard.from_template(
        metadata(schema, found, statistics, chosen, previews),
        template_path=str(TEMPLATE),
        **template_context(schema, statistics, repo),
        licence=chosen,
        example=image_id,
    )
    readme = folder / "README.md"
    about = croissant(repo, chosen, statistics, schema, found, previews)
    with disk_full_as_user_error(full):
        write_atomic(folder / "LICENSE", chosen.text.encode())
        write_json(folder / "statistics.json", statistics)
        write_json(folder / "croissant.json", about)
        draw_figures(statistics, folder / "figures")
        write_atomic(folder / "figures" / "example.jpg", picture)
        write_atomic(readme, f"{card}\n".encode())
    return readme


def metadata(
    schema: pa.Schema,
    shards: list[Shard],
    statistics: Statistics,
    licence: Licence,
    previews: Sequence[Path],
) -> DatasetCardData:
    """The YAML at the head of the card, with the configurations `preview` (default) and `full`.

    Its sizes are those of the Parquet files, because images, most of the data, stay compressed.
    """
    by_split = {split: [s for s in shards if s.name.startswith(f"{split}-")] for split in SPLITS}
    by_split = {split: members for split, members in by_split.items() if members}
    sizes = {split: sum(s.bytes or 0 for s in members) for split, members in by_split.items()}
    total = statistics["total"]
    generators = [name for name in statistics["generators"] if name != "spheres"]
    passes = [name for name in PASSES if name in schema.names]
    licence_entries: dict[str, Any] = licence.metadata
    data = DatasetCardData(
        **licence_entries,
        pretty_name=PRETTY_NAME,
        task_categories=TASKS + ["depth-estimation"] * ("depth" in passes),
        tags=[*TAGS, *(["infinigen"] if generators else []), "blender", *passes],
        size_categories=size_category(total["panoramas"]),
        annotations_creators="machine-generated",
        source_datasets=["original"],
        configs=[
            {
                "config_name": "preview",
                "default": True,
                "data_files": [
                    {
                        "split": split,
                        "path": [
                            f"preview/{path.name}"
                            for path in previews
                            if path.name.startswith(f"{split}-")
                        ],
                    }
                    for split in by_split
                ],
            },
            {
                "config_name": "full",
                "data_files": [
                    {"split": split, "path": [f"data/{shard.name}" for shard in members]}
                    for split, members in by_split.items()
                ],
            },
        ],
    )
    small = {
        split: sum(p.stat().st_size for p in previews if p.name.startswith(f"{split}-"))
        for split in by_split
    }
    infos = {
        "preview": _info(preview_schema(), small, statistics),
        "full": _info(schema, sizes, statistics),
    }
    DatasetInfosDict(infos).to_dataset_card_data(data)
    return data


def _info(schema: pa.Schema, sizes: Mapping[str, int], statistics: Statistics) -> DatasetInfo:
    """Features and sizes of a configuration, whose splits have these bytes."""
    splits = SplitDict()
    for split, size in sizes.items():
        panoramas = statistics["splits"][split]["panoramas"]
        splits.add(SplitInfo(split, num_bytes=size, num_examples=panoramas))
    return DatasetInfo(
        features=Features.from_arrow_schema(schema),
        splits=splits,
        download_size=sum(sizes.values()),
        dataset_size=sum(sizes.values()),
    )


def size_category(rows: int) -> str:
    """The Hub's size category of a number of rows.

    >>> size_category(999), size_category(1000), size_category(183_440)
    ('n<1K', '1K<n<10K', '100K<n<1M')
    """
    steps = ["1K", "10K", "100K", "1M", "10M"]
    k = min(len(str(rows)) - 3, len(steps) - 1)
    return f"{steps[k - 1]}<n<{steps[k]}" if k > 0 else "n<1K"
