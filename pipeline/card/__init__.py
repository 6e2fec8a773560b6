"""The dataset card: the page that a stranger reads on the Hugging Face Hub."""
