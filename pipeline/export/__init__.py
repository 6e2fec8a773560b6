"""The dataset in other formats than its own: COCO."""
