"""What a run on benchmarks does beside its answers: analyses of dense, times."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from harness.common.forecast import Forecast
from harness.common.progress import Progressing
from harness.store.rundir import Store


class Extra(Protocol):
    """What else is done after a run's answers, on the same loaded model and in its directory."""

    @property
    def recorded(self) -> dict[str, Any]:
        """What the settings of the run directory say of it."""

    def resume(self, out: Path) -> None:
        """Refuse a directory that it cannot go on with. Raises UsageError."""

    def methods(self) -> dict[Any, Path | None]:
        """Method -> folder of its weights, of all that will run; empty when nothing is left."""

    def describe(self) -> dict[str, Any]:
        """What run.json says of it."""

    def plan(self, forecast: Forecast) -> None:
        """What is left of it, for the time that the run still takes."""

    def run(self, session: Any, store: Store, show: Progressing) -> bool:
        """Do what is missing; True when a part of it failed."""
