"""The 360° viewer that our pages share: Photo Sphere Viewer, as one script and one style sheet.

Both files are built from the packages named in `build/package.json` and committed, so that pages
work offline. `LICENSES.txt` holds the licences (MIT). `window.PanoramaViewer` has `Viewer`,
`MarkersPlugin` and `CanvasLayer`, which shows a canvas on the sphere above the panorama.
"""

from __future__ import annotations

from pathlib import Path

SCRIPT = Path(__file__).parent / "photo-sphere-viewer.js"
STYLE = Path(__file__).parent / "photo-sphere-viewer.css"
