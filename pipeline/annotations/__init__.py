"""Instance ids to annotations: boxes, areas, clicks, COCO masks, and what is wrong."""
