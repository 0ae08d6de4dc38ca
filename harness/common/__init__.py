"""What every room uses: errors, stops, small files, names. Torch-free."""
