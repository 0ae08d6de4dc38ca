"""What every training shares: the guarded `Trainer`, stages, resuming."""
