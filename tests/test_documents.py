"""What the documents name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / ".github/CONTRIBUTING.md"]
PLACE = re.compile(
    r"`((?:pipeline|sap_model|tests|docs|infinigen_configs|dataset_card)/[\w./-]*[\w/])`"
)
COMMAND = re.compile(r"python -m ((?:pipeline|sap_model|tests)(?:\.\w+)*)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_and_modules_exist(document):
    text = document.read_text(encoding="utf-8")
    missing = [place for place in PLACE.findall(text) if not (ROOT / place).exists()]
    for module in COMMAND.findall(text):
        path = ROOT / module.replace(".", "/")
        if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists():
            missing.append(module)
    assert not missing
