"""Clicks to masks: the predictor (the paper's algorithm 1), and the methods it is compared with."""
