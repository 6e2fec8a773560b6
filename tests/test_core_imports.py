"""Reading, annotating, verifying and exporting work without Unix and without the farm."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pipeline
import sap_model.scan

ROOT = Path(__file__).parents[1]

CORE = (
    "pipeline.annotations",
    "pipeline.errors",
    "pipeline.export",
    "pipeline.layout",
    "pipeline.shards",
    "pipeline.sphere",
    "pipeline.statistics",
    "pipeline.storage",
    "pipeline.verify",
    "sap_model.scan",
)

ABSENT = ("fcntl", "resource", "termios", "ray", "psutil")
"""Modules that Windows lacks, and packages that only the farm needs."""


def core_modules() -> list[str]:
    names = [
        module.name
        for package, prefix in ((pipeline, "pipeline."), (sap_model, "sap_model."))
        for module in pkgutil.walk_packages(package.__path__, prefix)
        if module.name.startswith(CORE) and not module.name.endswith("__main__")
    ]
    assert set(CORE) <= set(names)
    return names


def test_core_modules_import_without_unix_and_farm() -> None:
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({ABSENT}))\n"  # None: an import of it fails
        f"for name in {core_modules()}:\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
