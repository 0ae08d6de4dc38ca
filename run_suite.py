#!/usr/bin/env python
"""Benchmark token-sparsity methods on LLaVA-family models: `python run_suite.py --help`."""

import sys

from harness.cli import main

if __name__ == "__main__":
    sys.exit(main())
