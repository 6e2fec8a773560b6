"""Publish a verified dataset on the Hugging Face Hub."""
