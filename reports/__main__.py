"""``python -m reports RUN_DIR`` draws the tables, figures and reports of a run again;
``python -m reports diff RUN_A RUN_B`` compares two runs cell by cell.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reports import build_report
from reports.errors import ReportError


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when the work was done, 2 when a directory holds no run or none to compare."""
    words = sys.argv[1:] if argv is None else argv
    try:
        if words[:1] == ["diff"]:
            _diff(words[1:])
            return 0
        parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__)
        parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the directory of a run")
        parser.add_argument("--out", type=Path, metavar="DIR", help="write there, not into the run")
        asked = parser.parse_args(words)
        print(build_report(asked.run_dir, asked.out))
    except ReportError as error:
        print(f"reports: {error}", file=sys.stderr)
        return 2
    return 0


def _diff(words: list[str]) -> None:
    from reports.diffview import show_diff

    parser = argparse.ArgumentParser(prog="python -m reports diff", description=__doc__)
    parser.add_argument("a", type=Path, metavar="RUN_A")
    parser.add_argument("b", type=Path, metavar="RUN_B")
    parser.add_argument("--out", type=Path, metavar="DIR|FILE.md", help="write it as Markdown too")
    parser.add_argument(
        "--against", metavar="LIST", default="", help="rows that the other run is compared with"
    )
    asked = parser.parse_args(words)
    show_diff(asked.a, asked.b, asked.out, [name for name in asked.against.split(",") if name])


if __name__ == "__main__":
    sys.exit(main())
