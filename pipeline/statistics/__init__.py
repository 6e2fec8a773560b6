"""What a dataset holds, counted from its shards, and figures of it."""
