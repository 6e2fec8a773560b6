"""The 360° viewer that our pages share: Photo Sphere Viewer, as one script and one style sheet.

Both files are built from the packages named in `build/package.json` and committed, so that pages
work offline. `LICENSES.txt` holds the licences (MIT). `window.PanoramaViewer` has `Viewer`,
`MarkersPlugin` and `CanvasLayer`, which shows a canvas on the sphere above the panorama.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
SCRIPT = FOLDER / "photo-sphere-viewer.js"
STYLE = FOLDER / "photo-sphere-viewer.css"


def dialog_script() -> str:
    """A script for pages of one file: `lookAround` opens a panorama in 360° over the page."""
    return SCRIPT.read_text("utf-8") + (FOLDER / "look_around.js").read_text("utf-8")


def dialog_style() -> str:
    """The style of that dialog."""
    return STYLE.read_text("utf-8") + (FOLDER / "look_around.css").read_text("utf-8")
