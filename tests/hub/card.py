"""The Hub's check of a dataset card's metadata, for the keys that the cards of this project use."""

from __future__ import annotations

import re
from typing import Any

import yaml

ALLOWED = {
    "license": """
        apache-2.0 mit cc0-1.0 cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-4.0
        cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-2.0 gpl-3.0 odc-by odbl pddl unknown other
    """,
    "size_categories": "n<1K 1K<n<10K 10K<n<100K 100K<n<1M 1M<n<10M 10M<n<100M n>1T",
    "task_categories": """
        depth-estimation image-classification image-segmentation image-to-3d keypoint-detection
        mask-generation object-detection other zero-shot-object-detection
    """,
}
"""Some of the Hub's values, from its documentation of dataset cards."""


def read_metadata(content: str) -> Any:
    """The YAML at the head of a card; None without one."""
    found = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", content, re.DOTALL)
    return yaml.safe_load(found[1]) if found else None


def card_errors(content: str) -> list[str]:
    """Errors in the metadata of a README.md."""
    try:
        metadata = read_metadata(content)
    except yaml.YAMLError as error:
        return [f"YAML metadata error: {error}"]
    if not isinstance(metadata, dict):
        return ["empty or missing yaml metadata in repo card"]
    errors = []
    for key, allowed in ALLOWED.items():
        value = metadata.get(key, [])
        for item in value if isinstance(value, list) else [value]:
            if item not in allowed.split():
                errors.append(f'"{key}" must be one of {allowed.split()}, not {item!r}')
    for key, kind in {"pretty_name": str, "tags": list, "configs": list}.items():
        if not isinstance(metadata.get(key, kind()), kind):
            errors.append(f'"{key}" must be a {kind.__name__}')
    for number, config in enumerate(metadata.get("configs", [])):
        if not isinstance(config.get("config_name"), str):
            errors.append(f'"configs[{number}].config_name" is required')
        for file in config.get("data_files", []):
            if not isinstance(file.get("split"), str) or not isinstance(
                file.get("path"), str | list
            ):
                errors.append(f'"configs[{number}].data_files" must have split and path')
    return errors
