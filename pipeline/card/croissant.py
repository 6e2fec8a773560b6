"""croissant.json: the dataset as machines find and load it (MLCommons' Croissant 1.0, with RAI).

Files are described as sets within the repository, so that the description is as short for a
thousand shards as for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import __version__
from pipeline.card.licences import Licence
from pipeline.card.preview_rows import MEANINGS as PREVIEW_MEANINGS
from pipeline.card.preview_rows import preview_schema
from pipeline.card.template_context import PLACEHOLDER
from pipeline.shards.manifest import Shard
from pipeline.shards.schema import IMAGE_FILES, MEANINGS

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""Croissant's own JSON-LD context."""

DATA_TYPES = {
    "string": "sc:Text",
    "bool": "sc:Boolean",
    "double": "sc:Float",
    "int32": "sc:Integer",
    "int64": "sc:Integer",
}


def croissant(
    repo: str | None,
    licence: Licence,
    statistics: Mapping[str, Any],
    schema: pa.Schema,
    shards: Sequence[Shard],
    previews: Sequence[Path],
) -> dict[str, Any]:
    """The description of a dataset.

    Args:
        repo: Its name on the Hub; None writes a placeholder.
        licence: Its licence.
        statistics: The statistics of `pipeline.statistics.measure`.
        schema: The schema of its shards.
        shards: Its shards.
        previews: The files of its configuration `preview`.
    """
    address = f"https://huggingface.co/datasets/{repo or PLACEHOLDER}"
    total = statistics["total"]
    size = sum(shard.bytes or 0 for shard in shards) + sum(p.stat().st_size for p in previews)
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": (repo or PLACEHOLDER).rpartition("/")[2],
        "description": (
            f"{total['panoramas']} equirectangular panoramas of {total['scenes']} procedural 3D "
            f"scenes with {total['instances']['count']} exact instance masks."
        ),
        "conformsTo": [
            "http://mlcommons.org/croissant/1.0",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        "license": licence.url if "://" in licence.url else f"{address}/blob/main/LICENSE",
        "url": address,
        "version": __version__,
        "keywords": ["panorama", "360", "instance segmentation", "synthetic"],
        **_responsible_use(total),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "repo",
                "name": "repo",
                "description": "The repository on the Hugging Face Hub.",
                "contentUrl": address,
                "contentSize": f"{size} B",
                "encodingFormat": "git+https",
                "sha256": "https://github.com/mlcommons/croissant/issues/80",
            },
            *(
                {
                    "@type": "cr:FileSet",
                    "@id": f"{name}-files",
                    "name": f"{name}-files",
                    "containedIn": {"@id": "repo"},
                    "encodingFormat": "application/x-parquet",
                    "includes": includes,
                }
                for name, includes in (
                    ("preview", "preview/*.parquet"),
                    ("full", "data/*.parquet"),
                )
            ),
        ],
        "recordSet": [
            _record_set("preview", preview_schema(), PREVIEW_MEANINGS),
            _record_set("full", schema, MEANINGS),
        ],
    }


def _record_set(name: str, schema: pa.Schema, meanings: Mapping[str, str]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"The rows of the configuration `{name}`.",
        "key": {"@id": f"{name}/image_id"},
        "field": list(_fields(name, schema, meanings)),
    }


def _fields(name: str, schema: pa.Schema, meanings: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The columns that hold one value or image; lists of objects stay to the Parquet files."""
    for field in schema:
        extract: dict[str, Any] = {"column": field.name}
        about: dict[str, Any] = {}
        if field.name in (*IMAGE_FILES, "overlay"):
            kind, about = "sc:ImageObject", {"transform": {"jsonPath": "bytes"}}
        elif str(field.type) in DATA_TYPES:
            kind = DATA_TYPES[str(field.type)]
        else:
            continue
        yield {
            "@type": "cr:Field",
            "@id": f"{name}/{field.name}",
            "name": f"{name}/{field.name}",
            "description": meanings.get(field.name, field.name),
            "dataType": kind,
            "source": {"fileSet": {"@id": f"{name}-files"}, "extract": extract, **about},
        }


def _responsible_use(total: Mapping[str, Any]) -> dict[str, Any]:
    """Croissant's fields about responsible AI."""
    sizes = total["instances"]["sizes"]
    mix = ", ".join(f"{part['percent']:.1f} % {size}" for size, part in sizes.items())
    return {
        "rai:dataCollection": "Rendered with Blender from scenes that InfiniGen generates; "
        "nothing was photographed or collected from people.",
        "rai:dataCollectionType": ["Synthetic data"],
        "rai:dataAnnotationProtocol": "Masks are the renderer's object index at the centre of each "
        "pixel; no person annotated anything.",
        "rai:dataPreprocessingProtocol": [
            "Automatic exposure; panoramas that are black, blown "
            "out or without objects are left out."
        ],
        "rai:dataBiases": [
            "Furnished rooms of one procedural style; no people, text or outdoor places.",
            f"Masks by size: {mix}; small things on shelves and tables prevail.",
        ],
        "rai:dataLimitations": [
            "Synthetic pictures: no lens, no sensor noise, few samples per pixel, denoised.",
            "Glass and mirrors are opaque in the masks.",
        ],
        "rai:dataUseCases": [
            "Training and testing of promptable instance segmentation on panoramas."
        ],
        "rai:personalSensitiveInformation": ["None: no person, place or document is shown."],
        "rai:dataSocialImpact": "Models that are trained on it alone may fail on real homes, above "
        "all on styles of furnishing that the generator lacks.",
    }
