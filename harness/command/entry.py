"""Where the command starts: a wish to stop is heeded before anything heavy is imported."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from harness.common import heap
from harness.common.stops import EXIT_INTERRUPTED, ask, catch, interrupted
from harness.common.threads import prepare


def main() -> NoReturn:
    """The command: `harness.command.cli.main` on the process's own words. Ends the process.

    From its first line on, each of `SIGNALS` means exit code 130 and one line on standard error.
    """
    try:
        catch(ask)
        prepare()
        heap.keep()
        from harness.command.cli import main as run

        code = run()
    except KeyboardInterrupt:
        code = interrupted(sys.argv[1:])
    # All is saved and said: what comes now, while the interpreter ends, ends it without a word.
    catch(lambda *_: os._exit(EXIT_INTERRUPTED))
    sys.exit(code)
