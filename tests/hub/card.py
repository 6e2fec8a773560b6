"""The Hub's check of a dataset card's metadata, as far as our cards use it."""

from __future__ import annotations

import re
from typing import Any

import yaml

LICENSES = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause
    bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
    cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
    eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc intel-research lppl-1.3c
    ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql
    ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
    grok2-community gemma unknown other
"""

SIZES = """
    n<1K 1K<n<10K 10K<n<100K 100K<n<1M 1M<n<10M 10M<n<100M 100M<n<1B 1B<n<10B 10B<n<100B
    100B<n<1T n>1T
"""

TASKS = """
    depth-estimation feature-extraction image-classification image-feature-extraction
    image-segmentation image-text-to-image image-to-3d image-to-image image-to-text
    image-to-video keypoint-detection mask-generation object-detection other robotics
    text-to-3d text-to-image unconditional-image-generation visual-question-answering
    zero-shot-image-classification zero-shot-object-detection
"""
"""Those about pictures; a task that is not among them is only warned of, as on the Hub."""


def read_metadata(content: str) -> Any:
    """The YAML at the head of a card; None where there is none.

    Raises:
        yaml.YAMLError: It is not YAML.
    """
    found = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", content, re.DOTALL)
    return yaml.safe_load(found[1]) if found else None


def check_card(content: str) -> tuple[list[str], list[str]]:
    """Errors and warnings about the metadata of a README.md."""
    try:
        metadata = read_metadata(content)
    except yaml.YAMLError as error:
        return [f"YAML metadata error: {error}"], []
    if metadata is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(metadata, dict):
        return ["metadata must be of type object"], []
    tasks = _texts(metadata, "task_categories")
    warnings = [
        f'The task_categories "{task}" is not in the official list'
        for task in tasks - set(TASKS.split())
    ]
    return _errors(metadata), warnings


def _errors(metadata: dict[str, Any]) -> list[str]:
    errors = [
        f'"{key}" must be a text or a list of texts'
        for key in ("license", "language", "tags", "task_categories", "task_ids", "size_categories")
        if metadata.get(key, []) != [] and not _texts(metadata, key)
    ]
    for key, allowed in (("license", LICENSES), ("size_categories", SIZES)):
        errors += [
            f'"{key}" must be one of {allowed.split()}, not "{value}"'
            for value in sorted(_texts(metadata, key) - set(allowed.split()))
        ]
    errors += [
        f'"language" with value "{value}" is not valid. It must be an ISO 639 code'
        for value in sorted(_texts(metadata, "language"))
        if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", value)
    ]
    if not isinstance(metadata.get("pretty_name", ""), str):
        errors.append('"pretty_name" must be a string')
    if not isinstance(metadata.get("dataset_info", {}), dict | list):
        errors.append('"dataset_info" must be an object or an array')
    return errors + _config_errors(metadata.get("configs", []))


def _config_errors(configs: Any) -> list[str]:
    """Each of `configs` has a name, and files: a pattern, patterns, or {split, path}."""
    if not isinstance(configs, list):
        return ['"configs" must be an array']
    errors = []
    for number, config in enumerate(configs):
        if not isinstance(config, dict) or not isinstance(config.get("config_name"), str):
            errors.append(f'"configs[{number}].config_name" is required')
            continue
        files = config.get("data_files", [])
        for file in files if isinstance(files, list) else [files]:
            paths = file.get("path") if isinstance(file, dict) else file
            split = file.get("split") if isinstance(file, dict) else ""
            if not isinstance(paths, str | list) or not isinstance(split, str):
                errors.append(f'"configs[{number}].data_files" must be paths or {{split, path}}')
    return errors


def _texts(metadata: dict[str, Any], key: str) -> set[str]:
    """A value that may be one text or a list of them; nothing where it is neither."""
    value = metadata.get(key, [])
    values = value if isinstance(value, list) else [value]
    return set(values) if all(isinstance(item, str) for item in values) else set()
