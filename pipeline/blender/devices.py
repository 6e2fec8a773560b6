"""Find the device that Cycles renders on."""

from __future__ import annotations

import bpy

GPU_TYPES = ("OPTIX", "CUDA", "HIP", "METAL", "ONEAPI")
"""Cycles' GPU back-ends, the fastest for a machine first."""


def find_gpus() -> tuple[str, list[str]]:
    """Back-end and names of the GPUs Cycles can use here; ("", []) where there is none."""
    preferences = bpy.context.preferences.addons["cycles"].preferences
    for kind in GPU_TYPES:
        try:
            preferences.compute_device_type = kind
        except TypeError:  # this build of Blender does not have the back-end
            continue
        preferences.refresh_devices()
        names = [device.name for device in preferences.devices if device.type == kind]
        if names:
            return kind, names
    return "", []


def use_device(scene: bpy.types.Scene, gpu: bool) -> str:
    """Make a scene render on this machine's GPUs or on its CPU; returns the device's name.

    Raises:
        RuntimeError: A GPU is asked for and Cycles finds none.
    """
    preferences = bpy.context.preferences.addons["cycles"].preferences
    kind, names = find_gpus() if gpu else ("", [])
    if gpu and not names:
        raise RuntimeError("Cycles finds no GPU on this machine; render with PROFILE=cpu")
    preferences.compute_device_type = kind or "NONE"
    for device in preferences.devices:
        device.use = device.type == kind if gpu else device.type == "CPU"
    scene.cycles.device = "GPU" if gpu else "CPU"
    scene.cycles.denoising_use_gpu = gpu
    return f"{kind} {', '.join(names)}" if gpu else "CPU"


if __name__ == "__main__":  # the driver asks in a separate process
    print(", ".join(find_gpus()[1]))
