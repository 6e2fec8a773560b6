"""Shards of a few small panoramas."""

from __future__ import annotations

from tests.sap_model.evaluate.conftest import shards

__all__ = ["shards"]
