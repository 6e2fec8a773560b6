"""The schema is what `datasets` would write, and Parquet's own names match ours."""

import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.annotations.annotate import InstanceInfo, annotate
from pipeline.shards.schema import NO_GEOMETRY, image_columns, leaf_columns, make_schema


def features(passes):
    """The schema as `datasets` defines it, written independently."""
    value, floats = datasets.Value, datasets.List(datasets.Value("float64"))
    ints = datasets.List(value("int32"))
    return datasets.Features(
        {
            **{name: datasets.Image() for name in ("image", "ids", *passes)},
            "image_id": value("string"),
            "scene_id": value("string"),
            "width": value("int32"),
            "height": value("int32"),
            "generator": value("string"),
            "seed": value("int64"),
            "camera": {
                "position": floats,
                "rotation_euler": floats,
                "room": value("string"),
                "to_world_opencv": datasets.List(floats),
                "to_world_blender": datasets.List(floats),
            },
            "room": {
                "name": value("string"),
                "kind": value("string"),
                "polygon": datasets.List(floats),
                "floor": value("float64"),
                "height": value("float64"),
            },
            "objects": datasets.List(
                {
                    "id": value("int32"),
                    "category": value("string"),
                    "name": value("string"),
                    "is_structure": value("bool"),
                    "area": value("int64"),
                    "solid_angle": value("float64"),
                    "size": value("string"),
                    "bbox": floats,
                    "bbox_wrapped": floats,
                    "crosses_seam": value("bool"),
                    "touches_pole": value("bool"),
                    "bfov": floats,
                    "click": ints,
                    "iscrowd": value("int32"),
                    "segmentation": {"size": ints, "counts": value("string")},
                    "box3d": {
                        "centre": floats,
                        "size": floats,
                        "rotation": datasets.List(floats),
                    },
                    "distance": value("float64"),
                    "seen": value("float64"),
                }
            ),
            "provenance": {
                "pipeline": value("string"),
                "infinigen": value("string"),
                "bpy": value("string"),
                "profile": value("string"),
                "samples": value("int32"),
                "device": value("string"),
                "settings_hash": value("string"),
                "exposure_stops": value("float64"),
            },
        }
    )


@pytest.mark.parametrize("passes", [(), ("depth",), ("depth", "normal", "albedo")])
def test_schema_and_metadata_equal_those_of_datasets(passes):
    theirs = features(passes).arrow_schema
    ours = make_schema(passes)
    assert ours.equals(theirs)
    key = b"huggingface"
    assert json.loads(ours.metadata[key]) == json.loads(theirs.metadata[key])
    assert list(ours.metadata) == [key]


def test_image_columns_are_in_the_schemas_order():
    assert image_columns(["normal", "depth"]) == ("image", "ids", "depth", "normal")


def test_leaf_columns_equal_parquets(tmp_path):
    schema = make_schema(("depth",))
    pq.write_table(schema.empty_table(), tmp_path / "empty.parquet")
    parquet = pq.read_metadata(tmp_path / "empty.parquet").schema
    assert leaf_columns(schema) == [parquet.column(i).path for i in range(len(parquet))]


def test_objects_have_the_fields_that_annotate_makes():
    annotated, _ = annotate(np.ones((4, 8), np.uint16), {1: InstanceInfo("a", "b", False)}, 1)
    objects = [thing | NO_GEOMETRY for thing in annotated]
    column = pa.array([objects], make_schema().field("objects").type)
    assert column[0].as_py() == objects
    assert list(objects[0]) == [field.name for field in column.type.value_type]
