"""A verified dataset to the Hugging Face Hub: what would change, and making it so."""
