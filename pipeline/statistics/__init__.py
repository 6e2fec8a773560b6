"""Statistics of a dataset, counted from its shards, and their figures."""
