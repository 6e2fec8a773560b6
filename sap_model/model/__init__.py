"""SAM2 as the engine: its networks, its weights, and its tracker along a scan."""
