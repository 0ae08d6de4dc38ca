"""How the shipped mini model is made: its tower, its projector, its tuning."""
