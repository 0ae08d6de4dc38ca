"""`python -m modsuite view RUN`: the page of all samples, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from harness.common.errors import EXIT_OK, UsageError
from harness.common.stops import put
from harness.common.subcommand import SubParser
from reports.errors import ReportError

WORD = "view"  # as the command line dispatches it


def parser() -> argparse.ArgumentParser:
    """The words of the sub-command."""
    made = SubParser(
        prog=f"modsuite {WORD}",
        description="All samples of a run in the browser: search, filter, every method's answer.",
        epilog="The page is served on this machine's loopback only, until Ctrl-C. docs/samples.md",
    )
    made.add_argument("run", metavar="RUN", help="the directory of a run")
    made.add_argument(
        "--port",
        type=_port,
        metavar="N",
        help="of the page; default 8017, or any free one where that is taken; 0: any",
    )
    made.add_argument("--no-browser", action="store_true", help="say the address, open nothing")
    return made


def run(argv: Sequence[str]) -> int:
    """Serve the page until it is interrupted, which is its usual end. Raises UsageError."""
    args = parser().parse_args(list(argv))
    from reports.samples.index import Index
    from reports.samples.server import Server, start

    with tempfile.TemporaryDirectory(prefix="modsuite-view-", ignore_cleanup_errors=True) as folder:
        try:
            index = Index(Path(args.run).expanduser(), Path(folder))
            server = Server(index, args.port)
        except ReportError as error:
            raise UsageError(f"{WORD}: {error}") from None
        with server:
            builder, address = start(index, server)
            try:
                put(f"all samples of {args.run}: {address}   (Ctrl-C ends it)")
                if not args.no_browser and _has_screen():
                    webbrowser.open(address)
                server.serve_forever(poll_interval=0.2)
            except KeyboardInterrupt:
                pass
            finally:
                index.stop()
                builder.join(timeout=5)
    return EXIT_OK


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"0 to 65535 expected, not '{text}'")
    return int(text)


def _has_screen() -> bool:
    """Whether a browser would have a window: a browser of the terminal would take this one."""
    if platform.system() == "Linux":
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return "SSH_CONNECTION" not in os.environ
