"""The conditions box: what the numbers were measured on, as far as ``run.json`` says."""

from __future__ import annotations

import json
import math
import shlex
from datetime import datetime
from typing import Any

from harness.common.ownfiles import OWN
from reports import numbering, text
from reports.rundata import Run
from reports.study import Study
from reports.studytext import sample_count
from reports.summary import Summary

ENTRIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Model revision", ("revision", "model.revision", "model_revision")),
    ("Device", ("device_name", "device.name", "device", "settings.device")),
    ("Threads", ("threads", "timing.threads")),
    ("Precision", ("dtype", "settings.dtype")),
    ("Attention", ("attn", "attention", "settings.attn")),
    ("Batch size", ("batch_size", "batch", "settings.batch_size")),
    ("Seed", ("seed", "settings.seed")),
    ("Protocol", ("protocol",)),
    ("Limit", ("limit", "settings.limit")),
    ("Started", ("created_at",)),
    ("Code", ("git_commit", "git.commit", "commit")),
)
TIMING: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Device", ("device_name",)),
    ("Threads", ("threads",)),
    ("Precision", ("dtype",)),
    ("Attention", ("attn",)),
    ("Weights", ("weights",)),
    ("Clock", ("clock",)),
    ("Device state", ("device_state",)),
    ("Processes", ("processes",)),
    ("Rounds asked for", ("settings.repeats",)),
    ("Warm-up runs", ("settings.warmup",)),
    ("Seed", ("seed",)),
    ("Started", ("created_at",)),
    ("Code", ("git_commit",)),
)
BESIDE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Timed on", ("timing.device_name",)),
    ("Clock", ("timing.clock",)),
    ("Device state", ("timing.device_state",)),
    ("Rounds asked for", ("settings.repeats",)),
    ("Warm-up runs", ("settings.warmup",)),
)
"""What a run on benchmarks says of its times besides."""
VERSIONS = ("python", "torch", "transformers", "lmms-eval")


def entries(summary: Summary) -> list[tuple[str, str]]:
    """Pairs of a name and a value for the box on top of the report."""
    run = summary.run
    models = list(dict.fromkeys(s.model for s in summary.series if s.model))
    model = text.listing(models) or str(run.get("model.id", "model_id", "model") or "not recorded")
    data = sorted({c.data for c in summary.cells.values() if c.data})
    pairs = [
        ("Model", model + (" (mini)" if summary.is_mini_model else "")),
        ("Data", text.listing(data) or "not recorded"),
    ]
    read = run.cells[run.cells["data_source"] != ""]
    if len(read):
        names = read.groupby("data_source", sort=False)["bench"].unique()
        shown = [f"{_source(read, one)} ({text.listing(list(on))})" for one, on in names.items()]
        pairs.append(("Data read", "; ".join(shown)))
    if not run.is_timing:
        pairs.append(("Samples", text.sample_count(summary)))
        margins = {
            f"{text.number(s.margin * text.factor(summary, bench), 2).rstrip('0').rstrip('.')}"
            for (_, bench), cell in summary.cells.items()
            for s in cell.scores
            if not math.isnan(s.margin)
        }
        if margins:
            noun = "point" if margins == {"1"} else "points"
            pairs.append(("Margin", f"{text.listing(sorted(margins))} {noun}"))
        pairs += numbering.condition(summary)
    pairs += recorded(run, TIMING if run.is_timing else ENTRIES)
    pairs += _reused(run)
    if run.timed is not None:
        pairs += [pair for pair in recorded(run, BESIDE) if pair[0] != "Versions"]
    counter, convention = summary.counting
    if counter or convention:
        pairs.append(("FLOPs counted by", f"{counter or '?'}, convention {convention or '?'}"))
    return pairs


def _source(read: Any, name: str) -> str:
    """A source as it is named; of own data also that it is."""
    own = (read.loc[read["data_source"] == name, "data"] == OWN).any()
    return f"{OWN}: {name.replace('@', ', ')}" if own else name


def _reused(run: Run) -> list[tuple[str, str]]:
    """Which cells another run answered, with what its run.json says of itself."""
    done = run.cells[run.cells["status"] == "done"]
    parts = []
    for name, rows in done[done["reused_from"] != ""].groupby("reused_from", sort=False):
        device, created = (run.get(f"reused.{name}.{key}") for key in ("device_name", "created_at"))
        how = ", ".join(filter(None, (str(device or ""), str(created or "").partition("T")[0])))
        methods = text.listing(list(dict.fromkeys(rows["label"])))
        source = f"{name} ({how})" if how else str(name)
        parts.append(f"{len(rows)} of {len(done)} cells from {source}: {methods}")
    return [("Answers of other runs", "; ".join(parts))] if parts else []


def of_study(study: Study) -> list[tuple[str, str]]:
    """The box of a study, which trains its own models."""
    run = study.run
    model = str(run.get("model_id", "settings.model") or "not recorded")
    pairs = [("Model", f"{model} (mini)"), ("Data", "mini"), ("Samples", sample_count(study))]
    seeds = text.listing(list(dict.fromkeys(r.seed for arm in study.arms for r in arm.runs)))
    for name, value in (
        ("Training", study.said("training")),
        ("Training seeds", seeds),
        ("Margin", f"{study.said('margin')} points" if study.said("margin") else ""),
        ("Paper", ", ".join(filter(None, (study.said("paper"), study.said("table"))))),
    ):
        if value:
            pairs.append((name, value))
    return pairs + recorded(run, ENTRIES)


def recorded(run: Run, entries: tuple[tuple[str, tuple[str, ...]], ...]) -> list[tuple[str, str]]:
    """What ``run.json`` has of ``entries``, and the versions."""
    pairs = []
    for name, keys in entries:
        value = run.get(*keys)
        if value is not None:
            short = {"Started": _moment, "Code": _commit}.get(name, _shown)
            pairs.append((name, short(value)))
    versions = []
    for name in VERSIONS:
        plain = name.replace("-", "_")
        keys = (f"versions.{name}", f"versions.{plain}", plain, f"{plain}_version", name)
        value = run.get(*keys)
        if value is not None:
            versions.append(f"{name} {value}")
    if versions:
        pairs.append(("Versions", ", ".join(versions)))
    return pairs


def everything(summary: Summary) -> list[tuple[str, str]]:
    """Every entry of ``run.json``, for the reader who wants all of it."""
    return [(name, _shown(value)) for name, value in summary.run.meta.items()]


def command(summary: Summary) -> str:
    """The command line of the run, or nothing when it was not recorded."""
    argv = summary.run.get("argv", "command")
    words = [str(a) for a in argv] if isinstance(argv, list) else str(argv or "").split()
    if words and words[0].startswith("-"):
        words = ["run_suite.py", *words]
    return shlex.join(words)


def _commit(value: Any) -> str:
    """The first twelve digits of a commit, with whatever is said of changes to it."""
    commit, plus, changes = str(value).partition("+")
    return commit[:12] + plus + changes


def _moment(value: Any) -> str:
    """An ISO time to the minute, or whatever stands there."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return _shown(value)
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".strip()


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(v) for v in value)
    return value if isinstance(value, str) else json.dumps(value)
