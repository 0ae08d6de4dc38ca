"""Seeded generator of the mini benchmarks: named pictures, words, charts and receipts at 192 px.

`python -m minidata train` renders training scenes, `python -m minidata bench` the shipped test
benchmarks.  Reading the shipped benchmarks needs `minidata.tasks` only: no sources, no network.
"""

IMAGE_SIZE = 192
"""Side of every image in pixels."""

BENCHES = ("gqa", "textvqa", "scienceqa", "pope", "chartqa", "docvqa")
"""Upstream benchmarks that have a mini version."""

FAMILIES = ("objects", "text", "chart", "doc")
"""Kinds of picture."""
