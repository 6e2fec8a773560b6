"""Masks of everything in a panorama, and of folders of panoramas."""
