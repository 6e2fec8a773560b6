"""From a seed to annotated Parquet shards of 360° panoramas.

Data flows one way: seed → scene → viewpoints → colour + ids → annotations → shard.
"""

__version__ = "0.4.0"
