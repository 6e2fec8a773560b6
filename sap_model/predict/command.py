"""What `sap-panorama predict` does: a panorama's file and clicks → a mask's file.

Everything that can be wrong with files and clicks is found before the model is loaded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.pictures.read import Picture, read_picture
from pipeline.pictures.write import encode_panorama
from pipeline.sphere import pixel_solid_angles
from pipeline.storage import write_atomic
from sap_model.clicks import POSITIVE, Click
from sap_model.config import Predict
from sap_model.predict.overlay import overlay
from sap_model.threads import adapt_threads

MASKS, OVERLAYS = (".png",), (".png", ".jpg", ".jpeg")
"""Suffixes of what is written; a mask must not lose a bit."""


def segment(request: Predict) -> str:
    """Segment an object and write what was asked for.

    Returns:
        What was found and what it took, in lines for the user.

    Raises:
        UserError: The panorama, a click, a place to write to, the method or its weights are at
            fault.
    """
    picture = read_picture(request.image)
    clicks = [Click(*click) for click in request.clicks]
    check_clicks(clicks, picture)
    check_outputs(request)
    started = time.monotonic()
    # late: loading torch takes seconds that nobody should wait for to read what is wrong
    from sap_model.model.checkpoints import load, resolve_size
    from sap_model.predict.methods import checkpoint_of, make
    from sap_model.predict.objects import Prompt

    size = resolve_size(request.size, request.checkpoint, "nano")
    checkpoint = checkpoint_of(request.method, size, fine_tuned=request.checkpoint)
    if checkpoint is None:
        raise UserError(f"method {request.method} needs the truth, not clicks: choose another")
    model = load(size, request.checkpoint or checkpoint, request.image_size)
    adapt_threads(model)
    model.precision = request.precision
    method = make(
        request.method,
        model,
        fusion=request.fusion,
        cycles=request.cycles,
        visits=request.visits,
        prompted=request.prompted,
    )
    loaded = time.monotonic()
    method.set_panorama(picture.pixels)
    encoded = time.monotonic()
    clicks = on_sphere(clicks, picture)
    (found,) = method.predict_many([Prompt(clicks)])
    ended = time.monotonic()
    mask = found.mask if picture.known is None else found.mask & picture.known
    lines = "".join(f"note:          {note}\n" for note in picture.notes)
    lines += describe(mask, found.iou)
    lines += (
        f"seconds:       {ended - started:.1f} ({loaded - started:.1f} to load the model, "
        f"{encoded - loaded:.1f} to look at the panorama, {ended - encoded:.1f} to segment)\n"
    )
    if request.out:
        grey = picture.cut(mask).astype(np.uint8) * 255
        _write(request.out, cv2.imencode(".png", grey)[1].tobytes())
        lines += f"mask:          {request.out}\n"
    if request.overlay:
        painted = picture.cut(overlay(picture.pixels, mask, clicks))
        _write(request.overlay, encode_panorama(painted, request.overlay.suffix, picture.window))
        lines += f"look:          {request.overlay}\n"
    return lines


def check_clicks(clicks: Sequence[Click], picture: Picture) -> None:
    """Refuse clicks outside of a picture or where it shows nothing, and those that name no object.

    Raises:
        UserError: See above.
    """
    height, width = picture.size
    for click in clicks:
        if not (0 <= click.x < width and 0 <= click.y < height):
            raise UserError(
                f"click {click.x},{click.y} lies outside of the panorama: "
                f"0 to {width - 1},{height - 1}"
            )
        (there,) = on_sphere([click], picture)
        if picture.known is not None and not picture.known[there.y, there.x]:
            raise UserError(
                f"click {click.x},{click.y} lies where the picture is transparent; click on the "
                "object"
            )
    if not any(click.label == POSITIVE for click in clicks):
        raise UserError("no click on the object: give one without ,0 behind it")


def on_sphere(clicks: Sequence[Click], picture: Picture) -> list[Click]:
    """Clicks on a picture's own pixels as clicks on its sphere."""
    window = picture.window
    return [
        Click((click.x + window.left) % window.width, click.y + window.top, click.label)
        for click in clicks
    ]


def check_outputs(request: Predict) -> None:
    """Refuse places that cannot be written to, before work is done for them.

    Raises:
        UserError: A suffix, a folder that is missing or not writable, or a file that is needed.
    """
    taken = {request.image.resolve(): "the panorama"}
    for name, path, suffixes in (
        ("OUT", request.out, MASKS),
        ("OVERLAY", request.overlay, OVERLAYS),
    ):
        if path is None:
            continue
        if path.suffix.lower() not in suffixes:
            raise UserError(f"{name} {path} must end in {' or '.join(suffixes)}")
        if not os.access(path.parent, os.F_OK) or not path.parent.is_dir():
            raise UserError(f"{name} {path}: there is no folder {path.parent}")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise UserError(f"{name} {path}: the folder {path.parent} is not writable")
        if path.is_dir():
            raise UserError(f"{name} {path} is a folder; name a file")
        place = path.resolve()
        if place in taken:
            raise UserError(f"{name} {path} is {taken[place]}; choose another name")
        taken[place] = "the mask"


def describe(mask: NDArray[np.bool_], iou: float) -> str:
    """A mask (H, W) and the model's opinion of it, in lines for the user."""
    if not mask.any():
        return "found:         nothing; the model sees no object there\n"
    height, width = mask.shape
    sphere = mask.sum(axis=1) @ pixel_solid_angles(width, height) / (4 * np.pi)
    return (
        f"found:         {mask.mean():.2%} of the pixels, {sphere:.2%} of the sphere\n"
        f"estimated IoU: {iou:.2f} (the model's own guess)\n"
    )


def _write(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    try:
        write_atomic(path, data)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
