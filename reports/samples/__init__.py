"""The page for all samples of a run: a local server, an index on disk, one page. Torch-free."""
