"""Does what was installed import here? Names missing system libraries and how to get them."""

from __future__ import annotations

import ctypes
import importlib
import sys

MODULES = {
    "render": ("bpy", "cv2", "ray", "pyarrow", "rlemasklib", "infinigen", "infinigen2", "OpenEXR"),
    "predict": ("torch", "sam2.build_sam"),
    "hub": ("huggingface_hub", "datasets"),
    "train": ("training.model.sam2", "tensordict", "tensorboard"),
    "demo": ("starlette", "uvicorn"),
    "test": ("pytest", "hypothesis", "py360convert", "ruff", "mypy"),
}
"""What each extra must be able to import."""

LIBRARIES = {
    # shared library that bpy or opencv loads: Debian package that brings it
    "libGL.so.1": "libgl1",
    "libSM.so.6": "libsm6",
    "libXrender.so.1": "libxrender1",
    "libXi.so.6": "libxi6",
    "libXxf86vm.so.1": "libxxf86vm1",
    "libXfixes.so.3": "libxfixes3",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libX11.so.6": "libx11-6",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libgomp.so.1": "libgomp1",
}


def missing_libraries() -> dict[str, str]:
    """The entries of `LIBRARIES` that this machine cannot load."""
    missing = {}
    for library, package in LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            missing[library] = package
    return missing


def problems(extra: str) -> list[str]:
    """One line for each thing that keeps an extra from working; empty when all is well."""
    if extra not in MODULES:
        return [f"there is no extra {extra}; choose {', '.join(MODULES)}"]
    missing = missing_libraries() if extra == "render" and sys.platform == "linux" else {}
    if missing:
        return [
            f"missing system libraries: {', '.join(missing)}; "
            f"run: apt-get update && apt-get install -y {' '.join(missing.values())}"
        ]
    found = []
    for module in MODULES[extra]:
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:
            found.append(f"{module} does not import: {error}; run: make clean setup EXTRAS={extra}")
    return found


if __name__ == "__main__":
    lines = [line for extra in sys.argv[1:] for line in problems(extra)]
    for line in lines:
        print(line, file=sys.stderr)
    sys.exit(2 if lines else 0)
