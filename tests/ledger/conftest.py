"""The ledger's tests work on a run's folder, as the farm's do."""

from tests.farm.conftest import farm, small_disk

__all__ = ["farm", "small_disk"]
