"""Models: which there are, loading one, weights of trained methods, shared vision features."""
