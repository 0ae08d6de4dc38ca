"""`python -m modsuite`: the command line."""

import sys

from harness.command.cli import main

if __name__ == "__main__":
    sys.exit(main())
