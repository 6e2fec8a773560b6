"""The tables of the schema, and the descriptions of profiles."""

import pyarrow as pa
import pytest

from pipeline.card.template_context import describe_profile, schema_table
from pipeline.run_settings import PASSES, PROFILES
from pipeline.shards.schema import IMAGE_FILES, MEANINGS, make_schema

SCHEMA = make_schema(PASSES)


def paths(fields, inside=""):
    """Paths of all columns and fields of the schema, such as `objects.area`."""
    for field in fields:
        path, kind = f"{inside}{field.name}", field.type
        yield path
        if pa.types.is_list(kind):
            kind = kind.value_type
        if pa.types.is_struct(kind) and field.name not in IMAGE_FILES:
            yield from paths(kind, f"{path}.")


def test_every_field_has_a_meaning_in_schema_order():
    assert list(MEANINGS) == list(paths(SCHEMA))


def test_meanings_fit_into_a_table():
    for meaning in MEANINGS.values():
        assert meaning.strip() == meaning
        assert "\n" not in meaning and "|" not in meaning and "pipeline." not in meaning


@pytest.mark.parametrize("schema", [make_schema(), SCHEMA])
def test_tables_hold_every_leaf_once(schema):
    names = [row["name"] for row in schema_table(schema)]
    fields = [f"objects.{row['name']}" for row in schema_table(schema, inside="objects")]
    expected = set(paths(schema)) - {"camera", "room", "provenance"}
    expected -= {"objects.segmentation", "objects.box3d"}
    assert len(names + fields) == len(set(names + fields))
    assert set(names + fields) == expected


def test_types_have_the_names_of_datasets():
    types = {row["name"]: row["type"] for row in schema_table(SCHEMA)}
    assert types["normal"] == "image"
    assert types["camera.position"] == "list of float64"
    assert types["objects"] == "list"
    types = {row["name"]: row["type"] for row in schema_table(SCHEMA, inside="objects")}
    assert (types["click"], types["is_structure"]) == ("list of int32", "bool")


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_described(name):
    text = describe_profile(name)
    assert ("approximation" in text) == PROFILES[name].fast_gi
    assert ("without bump" in text) != PROFILES[name].bump
