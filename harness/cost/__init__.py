"""The cost ledger: FLOPs and KV cache from the recorded routing, and `--costs-only`."""
