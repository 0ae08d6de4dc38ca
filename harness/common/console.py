"""Where a program prints: a reader that has had enough (`| head`) ends no run."""

from __future__ import annotations

from rich.console import Console as RichConsole

from harness.common.stops import silence


class Console(RichConsole):
    """rich's, that goes on in silence where its reader has closed the pipe."""

    def on_broken_pipe(self) -> None:
        """Print nothing more, here and by anybody else on this stream."""
        self.quiet = True
        silence(self.file)
