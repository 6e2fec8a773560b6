"""The dataset card: the dataset's page on the Hugging Face Hub."""
