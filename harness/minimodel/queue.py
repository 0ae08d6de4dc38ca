"""`--all --jobs N`: recipes that do not wait for each other train side by side, a process each.

A small model's operators are too short for two threads: on two cores a step of p-MoD took 1.0 s
with both and 1.1 s with one, so two at a time do nearly twice the work (docs/mini-model.md).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.common.errors import HarnessError
from harness.common.place import check_place
from harness.common.threads import ASKED, cores
from harness.minimodel.recipe import Recipe

LISTEN = 0.5  # seconds between two looks at the processes


def needs(paths: Sequence[Path]) -> dict[str, set[str]]:
    """Name of each recipe -> the earlier ones whose results it reads. Raises UsageError."""
    found: dict[str, set[str]] = {}
    for path in paths:
        found[path.stem] = set(Recipe.load(path).builds_on.values()) & set(found)
    return found


@dataclass
class Queue:
    """Recipes in their order, `jobs` of them at a time; `words` go to each process as they are.

    One that has nothing beside it gets all cores. What a process says is appended to WORK/NAME.log.
    After a failure nothing new is begun, and what runs is left to end.
    """

    paths: Sequence[Path]
    work: Path
    words: Sequence[str]
    jobs: int
    running: dict[str, tuple[Any, float]] = field(default_factory=dict)

    def run(self) -> Iterator[str]:
        """A line for each recipe that begins or ends. Raises HarnessError for one that failed."""
        waiting = {path.stem: path for path in self.paths}
        asked, done, failed = needs(self.paths), set[str](), dict[str, int]()
        check_place(self.work)
        self.work.mkdir(parents=True, exist_ok=True)
        try:
            while self.running or (waiting and not failed):
                ready = [name for name in waiting if asked[name] <= done and not failed]
                beside = min(self.jobs, len(ready) + len(self.running))
                for name in ready[: self.jobs - len(self.running)]:
                    self._begin(name, waiting.pop(name), max(1, cores() // beside))
                    yield f"{name}: begun, {self._log(name)} has what it says"
                time.sleep(LISTEN)
                for name, (process, began) in list(self.running.items()):
                    if (code := process.poll()) is None:
                        continue
                    del self.running[name]
                    if code:
                        failed[name] = code
                    done.add(name)
                    minutes = (time.monotonic() - began) / 60
                    yield f"{name}: {'failed' if code else 'done'} after {minutes:.1f} minutes"
        finally:
            self._end()
        if failed:
            shown = ", ".join(f"{name} (exit code {code})" for name, code in failed.items())
            raise HarnessError(
                f"training failed: {shown}; the logs in {self.work} say why, and the same command "
                "goes on from here"
            )

    def _log(self, name: str) -> Path:
        return self.work / f"{name}.log"

    def _begin(self, name: str, path: Path, threads: int) -> None:
        own = {ASKED: str(threads)}
        command = [sys.executable, "-m", "harness.train", "--recipe", str(path), *self.words]
        with self._log(name).open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [*command, "--work", str(self.work)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=own | dict(os.environ),
                start_new_session=True,  # an interrupt is passed on once, below
            )
        self.running[name] = process, time.monotonic()

    def _end(self) -> None:
        """Stop what still runs, and wait for it."""
        for process, _ in self.running.values():
            process.terminate()  # an interrupt is ignored by what a script began in the background
        for process, _ in self.running.values():
            process.wait()
