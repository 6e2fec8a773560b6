"""Score methods on panoramas in the paper's protocol: one panorama, many, tables, a page."""
