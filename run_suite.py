#!/usr/bin/env python
"""Benchmark token-sparsity methods on LLaVA-family models: `python run_suite.py --help`."""

import sys

if __name__ == "__main__":
    try:
        from harness.command.entry import main
    except KeyboardInterrupt:  # in the milliseconds before anything can be said
        sys.exit(130)
    main()
