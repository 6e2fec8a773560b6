"""Instance id maps to annotations: boxes, areas, clicks, COCO masks, defects."""
