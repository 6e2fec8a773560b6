"""The ledger: what is written down of scenes and attempts, and what is read from it."""
