"""Parquet shards of annotated panoramas: their schema, the writer, and the reader."""
