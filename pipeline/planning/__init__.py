"""Before a run: what it will take, from the costs of earlier ones."""
