"""What machine this is: GPU, driver, memory, versions, and what Blender sees of it."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

GIB = 2**30

RENDER_SECONDS = 90
"""How long Blender may take to start and to render a test picture on the CPU and on the GPU."""

RENDER = """
import sys, time, bpy
from pipeline.blender.devices import find_gpus, use_device
bpy.ops.wm.read_factory_settings()
scene = bpy.context.scene
scene.render.engine, scene.cycles.samples = "CYCLES", 64
scene.render.resolution_x, scene.render.resolution_y = 1024, 512
for gpu in (False, True) if find_gpus()[1] else (False,):
    device = use_device(scene, gpu)
    scene.render.filepath = sys.argv[1]
    started = time.monotonic()
    bpy.ops.render.render(write_still=True)
    print(f"rendered {device}: {time.monotonic() - started:.2f}", flush=True)
"""


def describe() -> dict[str, Any]:
    """Facts about the machine as plain JSON types; `gpu` is None where torch sees none."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cpus": torch.get_num_threads(),
        "gpu": None,
    }
    if not torch.cuda.is_available():
        return facts
    about = torch.cuda.get_device_properties(0)
    return facts | {
        "gpu": about.name,
        "gpus": torch.cuda.device_count(),
        "memory_gib": round(about.total_memory / GIB, 1),
        "compute_capability": f"{about.major}.{about.minor}",
        "driver": _driver(),
        "cudnn": torch.backends.cudnn.version(),
        "attention": _attention(),
    }


def _driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown: nvidia-smi is not installed"
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return answer.stdout.strip().splitlines()[0] if answer.stdout.strip() else answer.stderr.strip()


def _attention() -> dict[str, bool]:
    """Which of torch's fast kernels of attention can compute SAM2's attention to memories."""
    query = torch.randn(1, 1, 4096, 256, device="cuda", dtype=torch.bfloat16)
    usable = {}
    for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        with sdpa_kernel(kernel):
            try:
                scaled_dot_product_attention(query, query, query)
                usable[kernel.name.lower()] = True
            except RuntimeError:
                usable[kernel.name.lower()] = False
    return usable


def render(picture: str, seconds: float = RENDER_SECONDS) -> dict[str, Any]:
    """Seconds that Blender needs for a test picture on each kind of device.

    Args:
        picture: Where the picture goes, a PNG.
        seconds: After which Blender is ended.
    """
    if find_spec("bpy") is None:
        return {"skipped": "Blender (the package bpy) is not installed"}
    command = [sys.executable, "-c", RENDER, picture]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"Blender took more than {seconds:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("rendered ")]
    if done.returncode or not lines:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    found = {}
    for line in lines:
        device, _, took = line.removeprefix("rendered ").rpartition(": ")
        found[device] = float(took)
    return {"seconds": found}
