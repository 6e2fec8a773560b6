"""One Cycles render per panorama: colour, instance ids and the extra passes together.

The object-index pass is taken at the centre of each pixel and does not depend on samples, pixel
filter or denoising, so the picture and its exact ids come out of the same render.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bpy
import cv2
import numpy as np
import OpenEXR

from pipeline.annotations import instance_ids
from pipeline.blender.devices import use_device
from pipeline.blender.instances import rendered_objects
from pipeline.exposure import automatic_exposure
from pipeline.layout import SceneFolder, write_json
from pipeline.run_settings import PROFILES, RunSettings

AMBIENT_DISTANCE = 3.0
"""Fast GI: metres within which surfaces darken each other."""

AMBIENT_FACTOR = 1.0
"""Fast GI: strength of the light that stands for all further bounces."""

TILE_SIZE = 1024
"""Pixels along the edge of a tile, where a GPU's memory does not hold the panorama at once."""

EXTRA_PASSES = {"albedo": "DiffCol", "depth": "Depth", "normal": "Normal"}
"""Our names of the optional passes, and Blender's."""

Array = np.ndarray[Any, np.dtype[Any]]


def render_missing(
    scene: SceneFolder,
    viewpoints: Sequence[dict[str, Any]],
    settings: RunSettings,
    threads: int,
    device: str = "",
) -> None:
    """Render every viewpoint of the loaded scene that is neither rendered nor annotated yet.

    Each panorama appears under `scene.rendered(k)` complete or not at all: `image.png` (8-bit
    sRGB), `ids.png` (16-bit: instance id, 0 where there is no object), `depth.exr` (metres along
    the ray), `normal.exr` (world axes) and `albedo.exr` (linear RGB) where asked for, and
    `render.json`.
    """
    missing = [
        k
        for k in range(len(viewpoints))
        if not scene.rendered(k).exists() and not scene.panorama(k).exists()
    ]
    if not missing:
        return
    used = configure(settings, threads, device)
    for done, k in enumerate(missing, start=1):
        print(f"stage: render {done}/{len(missing)}", flush=True)
        folder = scene.scratch / f"rendered-{k}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        start, start_cpu = time.monotonic(), time.process_time()
        stops = render_panorama(viewpoints[k], settings, folder)
        write_json(
            folder / "render.json",
            {
                "profile": settings.profile,
                "samples": settings.samples,
                "device": used,
                "exposure_stops": stops,
                "render_seconds": round(time.monotonic() - start, 2),
                "render_cpu_seconds": round(time.process_time() - start_cpu, 2),
            },
        )
        scene.rendered(k).parent.mkdir(exist_ok=True)
        os.replace(folder, scene.rendered(k))


def configure(settings: RunSettings, threads: int, device: str = "") -> str:
    """Set everything about the render but the camera's pose; returns the used device's name.

    Args:
        settings: What the panoramas look like.
        threads: CPUs to keep busy.
        device: Where a render runs whose profile asks for a GPU: "gpu", "gpu-tiles" (with less of
            its memory) or "cpu"; "" is what the profile says.

    All of it is set before the first render of a scene, because Blender then keeps the
    synchronised scene between renders (`use_persistent_data`) and ignores most later changes.
    """
    profile = PROFILES[settings.profile]
    scene = bpy.context.scene
    render, cycles, view = scene.render, scene.cycles, scene.view_settings
    render.engine = "CYCLES"
    used = use_device(scene, profile.gpu and device != "cpu")
    render.threads_mode, render.threads = "FIXED", threads
    render.resolution_x, render.resolution_y = settings.width, settings.height
    render.resolution_percentage = 100
    render.pixel_aspect_x = render.pixel_aspect_y = 1.0
    render.use_border = render.use_motion_blur = render.film_transparent = False
    render.use_persistent_data = True
    render.use_compositing, render.use_sequencer = True, False

    cycles.samples, cycles.seed, cycles.use_animated_seed = settings.samples, 0, False
    cycles.use_adaptive_sampling = False
    # Tiles go through a temporary file and change no pixel; most memories hold 8K without them.
    cycles.use_auto_tile, cycles.tile_size = device == "gpu-tiles", TILE_SIZE
    cycles.use_denoising, cycles.denoiser = True, "OPENIMAGEDENOISE"
    cycles.denoising_input_passes = "RGB_ALBEDO_NORMAL"
    cycles.max_bounces = cycles.diffuse_bounces = cycles.glossy_bounces = profile.max_bounces
    cycles.transmission_bounces = cycles.transparent_max_bounces = 8
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.sample_clamp_indirect = 10.0
    cycles.use_light_tree = profile.light_tree
    cycles.use_fast_gi = profile.fast_gi
    cycles.fast_gi_method, cycles.ao_bounces_render = "REPLACE", 1
    if scene.world is None:
        scene.world = bpy.data.worlds.new("dark")
    scene.world.light_settings.distance = AMBIENT_DISTANCE
    scene.world.light_settings.ao_factor = AMBIENT_FACTOR
    cycles.film_exposure = 1.0
    if not profile.bump:
        _flatten_materials()

    scene.display_settings.display_device = "sRGB"
    view.view_transform, view.look = "AgX", "None"
    view.gamma, view.use_curve_mapping = 1.0, False

    camera = bpy.data.objects.new("panorama", bpy.data.cameras.new("panorama"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    camera.data.type = "PANO"
    camera.data.panorama_type = "EQUIRECTANGULAR"
    camera.data.clip_start, camera.data.clip_end = 0.01, 10_000.0
    camera.data.dof.use_dof = False
    _connect_passes(settings.passes)
    return used


def render_panorama(viewpoint: dict[str, Any], settings: RunSettings, folder: Path) -> float:
    """Render one viewpoint of the configured scene into a folder; returns the exposure in stops."""
    scene = bpy.context.scene
    scene.camera.location = viewpoint["position"]
    scene.camera.rotation_euler = viewpoint["rotation_euler"]
    passes = _render_passes(folder)
    stops = automatic_exposure(passes["Image"])
    scene.view_settings.exposure = stops
    image = scene.render.image_settings
    image.file_format, image.color_mode, image.color_depth = "PNG", "RGB", "8"
    image.compression = 10
    bpy.data.images["Render Result"].save_render(str(folder / "image.png"), scene=scene)

    low = passes["IndexOB"]
    ids = low
    if (
        max((obj["instance_id"] for obj in rendered_objects()), default=0)
        > instance_ids.MAX_PASS_INDEX
    ):
        # The second digit of the ids needs a second object-index pass.
        _set_pass_indices(digit=1)
        high = _render_passes(folder)["IndexOB"]
        _set_pass_indices(digit=0)
        ids = np.where(low > 0, high * instance_ids.MAX_PASS_INDEX + low, 0)
    _write_ids(folder / "ids.png", ids)
    for name in settings.passes:
        layer = passes[EXTRA_PASSES[name]]
        OpenEXR.File(
            {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage},
            {"Y": layer} if layer.ndim == 2 else {"RGB": layer},
        ).write(str(folder / f"{name}.exr"))
    return stops


def _render_passes(folder: Path) -> dict[str, Array]:
    """Render, and read the passes back: (H, W) float32, colour (H, W, 4), others (H, W, 3)."""
    bpy.context.scene.node_tree.nodes["passes"].base_path = str(folder / "passes")
    bpy.ops.render.render(write_still=False)
    (path,) = folder.glob("passes*.exr")
    channels = OpenEXR.File(str(path), separate_channels=True).channels()
    path.unlink()
    passes = {}
    layers = {"Image": "RGBA", "IndexOB": "V", "Depth": "V", "Normal": "XYZ", "DiffCol": "RGB"}
    for name, axes in layers.items():
        if f"{name}.{axes[0]}" in channels:
            planes = [channels[f"{name}.{axis}"].pixels for axis in axes]
            passes[name] = planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)
    return passes


def _connect_passes(extra: Sequence[str]) -> None:
    """Have the compositor write every pass of a render into one EXR file of 32-bit floats."""
    scene, layer = bpy.context.scene, bpy.context.view_layer
    # The first surface at the centre of the pixel has the pixel, also if it is a window's glass:
    # with Blender's threshold of 0.5 chance would decide at a transparent surface.
    layer.pass_alpha_threshold = 0.0
    layer.use_pass_object_index = True
    layer.use_pass_z = "depth" in extra
    layer.use_pass_normal = "normal" in extra
    layer.use_pass_diffuse_color = "albedo" in extra
    scene.use_nodes = True
    nodes, links = scene.node_tree.nodes, scene.node_tree.links
    nodes.clear()
    source = nodes.new("CompositorNodeRLayers")
    composite = nodes.new("CompositorNodeComposite")
    links.new(source.outputs["Image"], composite.inputs["Image"])
    sink = nodes.new("CompositorNodeOutputFile")
    sink.name = "passes"
    sink.format.file_format, sink.format.color_depth = "OPEN_EXR_MULTILAYER", "32"
    sink.format.exr_codec = "ZIPS"
    sink.layer_slots.clear()
    for name in ["Image", "IndexOB", *(EXTRA_PASSES[name] for name in extra)]:
        sink.layer_slots.new(name)
        links.new(source.outputs[name], sink.inputs[name])


def _flatten_materials() -> None:
    """Cut bump and displacement out of every material of the loaded scene."""
    trees = [material.node_tree for material in bpy.data.materials if material.use_nodes]
    trees += [group for group in bpy.data.node_groups if group.type == "SHADER"]
    for tree in trees:
        for link in list(tree.links):
            displaced = link.to_socket.name == "Displacement"
            if (displaced and link.to_node.type == "OUTPUT_MATERIAL") or (
                link.from_node.type == "BUMP"
            ):
                tree.links.remove(link)


def _set_pass_indices(digit: int) -> None:
    """Let the object-index pass show one digit of the instance ids (0 low, 1 high)."""
    for obj in rendered_objects():
        obj.pass_index = instance_ids.digits_of(obj["instance_id"])[digit]


def _write_ids(path: Path, ids: Array) -> None:
    """Write ids as a 16-bit PNG; OSError where OpenCV cannot (for example on a full disk)."""
    if not cv2.imwrite(str(path), ids.astype(np.uint16)):
        raise OSError(f"could not write {path}")
