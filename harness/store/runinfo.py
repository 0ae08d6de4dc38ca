"""What `run.json` says about the circumstances of a run. Torch-free."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from typing import Any

from harness.common.roots import ROOT
from harness.store.cells import package_versions

# What `environment` says.
CIRCUMSTANCES = ("argv", "created_at", "git_commit", "versions", "platform")


def now() -> str:
    """The time in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str | None]:
    """Versions of Python and the packages that can change a number; None where not installed."""
    return {"python": platform.python_version(), **package_versions()}


def git_commit() -> str | None:
    """The commit of this source tree, with `+changes` when it was edited; None outside git."""

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(ROOT), *words]
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return run.stdout.strip()

    try:
        if not (ROOT / ".git").exists():
            return None
        changed = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return None


def environment(argv: list[str]) -> dict[str, Any]:
    """The part of `run.json` that every kind of run has: command, time, code, versions."""
    return {
        "argv": argv,
        "created_at": now(),
        "git_commit": git_commit(),
        "versions": versions(),
        "platform": platform.platform(),
    }
