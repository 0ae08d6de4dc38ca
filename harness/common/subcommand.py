"""The parser of a first word that is no flag (`convert`, `pack`, `view`): errors are one line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from harness.common.errors import UsageError


class SubParser(argparse.ArgumentParser):
    """argparse for `modsuite WORD ...`; a bad word is a UsageError that names the sub-command."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog.split()[-1]}: {message}")
