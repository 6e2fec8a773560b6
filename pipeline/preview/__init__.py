"""The preview page: panoramas with their masks, for people to check."""
