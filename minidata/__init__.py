"""Seeded generator of the mini benchmarks: named pictures, words, charts and receipts.

Pictures have 192 px, those of high resolution 384 to 768 px (`minidata.hd`).

`python -m minidata train` renders training scenes, `python -m minidata bench` the shipped test
benchmarks.  Reading the shipped benchmarks needs `minidata.tasks` only: no sources, no network.
"""

IMAGE_SIZE = 192
"""Side in pixels of every image but those of high resolution."""

PAGE = (IMAGE_SIZE, IMAGE_SIZE)
"""Width and height of those images."""

BENCHES = ("gqa", "textvqa", "scienceqa", "pope", "chartqa", "docvqa")
"""Upstream benchmarks that have a mini version."""

HD_BENCHES = ("textvqa_hd", "chartqa_hd", "docvqa_hd")
"""The same on large pages with letters of the same size (see `minidata.hd`)."""

FAMILIES = ("objects", "text", "chart", "doc")
"""Kinds of picture."""
