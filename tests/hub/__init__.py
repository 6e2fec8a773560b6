"""A Hugging Face Hub on this machine, for tests that publish with the real client."""
