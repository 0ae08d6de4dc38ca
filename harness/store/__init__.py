"""The run directory: cells, CSV files that survive a kill, and the tables derived from them."""
