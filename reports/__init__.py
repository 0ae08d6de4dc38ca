"""Reports on a run directory: tables, figures, ``report.html`` and ``report.md``.

Everything is drawn from the CSV files, ``run.json`` and ``routing/`` of one run. This package
imports neither torch nor the parts of the project that run models, so that a report can be drawn
anywhere, in seconds, also while a run is still in progress.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["build_report"]


def build_report(run_dir: Path, out: Path | None = None, against: Sequence[str] = ()) -> Path:
    """Draw every table and figure of ``run_dir`` again and return the path of ``report.html``.

    They go into the folder ``out`` where one is given; the run then stays as it is.
    ``against``: labels of the rows that the first table's differences are to; as the run says, else
    dense.

    Raises:
        reports.errors.ReportError: the directory is not a run directory or cannot be written.
    """
    from reports.build import build_report as build  # pandas and matplotlib: only when asked

    return build(run_dir, out, against)
