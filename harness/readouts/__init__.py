"""What is computed from stored records and scores. Torch-free."""
