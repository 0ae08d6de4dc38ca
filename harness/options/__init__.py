"""What a user may ask for: settings, their checks, suite files. Torch-free."""
