"""What a run puts into a paper: two tables, the entries to cite, a paragraph of conditions."""
