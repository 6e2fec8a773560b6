"""Read a dataset back and say what is wrong with it: every pixel, every number, every name."""
