"""Where this project's own files lie: in a checkout, and where it was installed from a wheel.

`ROOT` holds the packages. `DATA` holds `assets/`, `suites/` and `recipes/`: the checkout itself, or
the copy that rides in the wheel. `BUILD` takes what is made here and kept for later: trainings and
rendered scenes. Imports next to nothing, as `harness.common.stops` needs it.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "modsuite" / "data"  # filled by setup.py when a wheel is built
INSTALLED = SHIPPED.is_dir()
DATA = SHIPPED if INSTALLED else ROOT
BUILD = Path("build") if INSTALLED else ROOT / "build"  # site-packages is no place to write to
