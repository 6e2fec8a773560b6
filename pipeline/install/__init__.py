"""Set-up: every version pinned (`constraints.txt`, `sam2.txt`), and a check that it all imports."""
