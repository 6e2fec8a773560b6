"""SAP: a panorama as a closed video of perspective views, segmented by SAM2, fused again.

Where to look is in `trajectory`, panorama ↔ views in `views`. Panorama pixels and directions come
from `pipeline.sphere` alone.
"""
