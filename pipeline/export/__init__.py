"""Export to formats that other tools read: COCO."""
