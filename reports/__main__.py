"""``python -m reports RUN_DIR``: draw the tables, figures and reports of a run again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reports import build_report
from reports.errors import ReportError


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when the report was written, 2 when the directory holds no run."""
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the directory of a run")
    try:
        print(build_report(parser.parse_args(argv).run_dir))
    except ReportError as error:
        print(f"reports: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
