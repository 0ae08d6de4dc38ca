"""The main job from Python: methods on benches, in a run directory, read back as tables."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modsuite.errors import Error, spoken

if TYPE_CHECKING:
    import pandas as pd

    from modsuite.model import Model

LOADED = ("device", "dtype", "attn")  # settings that a loaded model has already


class Comparison:
    """A finished run: its folder, and its CSVs as pandas frames (read when asked for)."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def frame(self, name: str) -> pd.DataFrame:
        """`NAME.csv` of the run. Raises Error where the run has none."""
        import pandas as pd

        from harness.store.tables import stored

        file = stored(self.path / f"{name}.csv")
        if file is None:
            have = ", ".join(sorted({p.name.split(".")[0] for p in self.path.glob("*.csv*")}))
            raise Error(f"{self.path}: no {name}.csv; there are {have}")
        return pd.read_csv(file)

    @property
    def cells(self) -> pd.DataFrame:
        """One row a method and bench, failed ones with the reason."""
        return self.frame("cells")

    @property
    def accuracy(self) -> pd.DataFrame:
        """Scores with intervals, differences to dense with intervals and verdicts."""
        return self.frame("accuracy")

    @property
    def comparisons(self) -> pd.DataFrame:
        """Every pair of rows on the same documents: by bench, and `(average)` where several.

        `delta` is `a` - `b`; `p_adjusted` and `verdict` where the two keep as much of the image.
        """
        return self.frame("comparisons")

    @property
    def averages(self) -> pd.DataFrame:
        """Accuracy of every row over the benches, share of dense's, KV cache and prefill."""
        return self.frame("averages")

    @property
    def cost(self) -> pd.DataFrame:
        """FLOPs and KV cache, a row a scope, convention and counter."""
        return self.frame("cost")

    @property
    def routing(self) -> pd.DataFrame:
        """Tokens processed by layer and kind."""
        return self.frame("routing")

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    def __repr__(self) -> str:
        rows = self.accuracy
        shown = rows[rows["headline"] == 1]
        columns = ["bench", "label", "n", "value", "ci_low", "ci_high", "delta", "verdict"]
        return f"{self.path}\n{shown[columns].to_string(index=False)}"


def compare(
    model: Model | str,
    methods: str | Sequence[str],
    bench: str | Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int | str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    against: str | Sequence[str] | None = None,
    **settings: Any,
) -> Comparison:
    """Run methods on benches as the command line does; dense is always added.

    `model`: what `load` gave, or a name. `out`: the run directory (default `runs/<time>`); an
    existing one with the same settings is resumed. `against`: the rows that the report's first
    table compares with (default dense); `.comparisons` has all pairs anyway. `settings`: further
    flags by their names with underscores (`controls=True`, `data="hub"`, `margin=1`, ...), of which
    `device`, `dtype` and `attn` must be those of the loaded model. Raises Error, also when a cell
    failed (the others are kept in the run directory).
    """
    from harness.common.ranks import from_environment
    from modsuite.model import load

    if not from_environment(os.environ).alone:
        raise Error("compare: works in one process; under torchrun use the command, run_suite.py")
    how = {name: settings[name] for name in LOADED if settings.get(name) is not None}
    mine = load(model, **how) if isinstance(model, str) else model
    words = {
        "methods": methods, "bench": bench, "limit": limit, "batch_size": batch_size,
        "seed": seed, "out": out, "against": against, **settings,
    }  # fmt: skip
    with spoken():
        from harness.common.errors import EXIT_INTERRUPTED, EXIT_OK
        from harness.common.threads import kept
        from harness.jobs.benchmarks import Benchmarks
        from harness.jobs.runner import run
        from harness.store.folder import default_out
        from modsuite.wrapped import require_files

        argv = _argv(words)
        path = Path(out) if out is not None else default_out()
        if out is None:
            argv += ["--out", str(path)]
        said, wrong = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong), kept():
            require_files(mine.session)
            asked = _settings([*argv, "--quiet"])
            _check(asked, mine.session)
            code = run(Benchmarks(asked, argv, mine.session))
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if code != EXIT_OK:
        lines = wrong.getvalue().strip().splitlines()
        raise Error(f"{path}: {lines[-1] if lines else 'some cells failed'}")
    return Comparison(path)


def _check(asked: Any, session: Any) -> None:
    """Raise UsageError for what a model that is loaded already, in this process, cannot give."""
    from harness.common.errors import UsageError
    from harness.options.option import JobKind, flag

    other = [name for name in ("jobs", "cluster", "device_map") if name in asked.changed()]
    if asked.job not in JobKind.RUN | JobKind.TIMED_RUN:
        other.append(asked.job.shown.removeprefix("--").replace("-", "_"))
    if other:
        raise UsageError(f"compare: {other[0]} is for the command alone: run_suite.py")
    device = str(session.model.device)
    has = {"device": {device, device.partition(":")[0]}, "dtype": {session.dtype}}
    has["attn"] = {session.attn}
    for name in LOADED:
        wish, found = getattr(asked, name), has[name]
        if wish != "auto" and wish not in found:
            raise UsageError(
                f"compare: {flag(name)} {wish} was asked for, the model was loaded with "
                f"{min(found)}: give it to ms.load"
            )


def _settings(argv: list[str]) -> Any:
    from harness.command.cli import parse

    return parse(argv)[1]


def _argv(words: dict[str, Any]) -> list[str]:
    """The command line that says the same. Raises Error for a name no flag has."""
    from harness.common.nearest import unknown
    from harness.options.flags import OPTIONS
    from harness.options.option import flag

    known = [one.name for one in OPTIONS]
    found: list[str] = []
    for name, value in words.items():
        if name not in known:
            raise Error("compare: " + unknown("setting", name, known))
        if value is None or value is False:
            continue
        if value is True:
            found.append(flag(name))
            continue
        many = isinstance(value, Sequence) and not isinstance(value, str)
        found += [flag(name), ",".join(map(str, value)) if many else str(value)]
    return found
