"""Fine-tuning SAM2 on the scan (paper, section 4.3): shards → clips → weights."""
