"""Does the model work on this machine's GPU, how fast, and with how much memory: `check-gpu`."""
