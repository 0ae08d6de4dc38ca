"""Files of ``gpu.py``: rounds as they come, what ran out of memory, and the table made of both.

rounds.csv   a row a model, batch, round, method and phase: ms, SM clock
status.csv   methods left out of a batch size, and why
flops.json   TFLOP of a sample by model, method and phase, from routing records
summary.csv  medians, speed-up and realisation with 95 % intervals, published figures beside
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.common.errors import UsageError
from harness.timing import ratios

PHASES = ("vision", "prefill", "decode", "end_to_end")
AIM = 0.90
# FastV on an A100, speed-up over FLOPs reduction, from its published table of times.
PUBLISHED = {"fastv:r=0.25": 0.88, "fastv:r=0.5": 0.74, "fastv:r=0.75": 0.57}
ROUND = ("model", "batch", "round", "method", "phase", "ms", "sm_mhz")
STATUS = ("model", "batch", "method", "status")
SUMMARY = (
    "model", "batch", "method", "phase", "status", "rounds", "rejected", "median_ms", "p10_ms",
    "p90_ms", "speedup", "speedup_ci_low", "speedup_ci_high", "flops_ratio", "realisation",
    "realisation_ci_low", "realisation_ci_high", "published_realisation", "aim",
)  # fmt: skip
SAME = ("methods", "device_name", "dtype", "attn", "n_text", "n_out", "seed", "dry_run", "versions")


class Rounds:
    """What is measured so far, in a folder; a second run of the same conditions adds to it."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.about = folder, about
        self._same_conditions()
        self.rows: list[dict[str, Any]] = _read(folder / "rounds.csv")
        self.status: list[dict[str, Any]] = _read(folder / "status.csv")
        path = folder / "flops.json"
        self.flops = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _same_conditions(self) -> None:
        path = self.folder / "run.json"
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            for name in SAME:
                if before.get(name) != json.loads(json.dumps(self.about[name])):
                    raise UsageError(
                        f"--out: '{self.folder}' was timed with {name} {before.get(name)}, this is "
                        f"{self.about[name]}: choose another --out"
                    )
        else:
            path.write_text(json.dumps(self.about, indent=1), encoding="utf-8")

    def count(self, model: str, batch: int) -> int:
        """Rounds of a block that are there."""
        mine = self._of(model, batch)
        return len({row["round"] for row in mine})

    def add(self, model: str, batch: int, number: int, taken: Any, reading: Any) -> None:
        """A round: method -> phase -> ms."""
        found = [
            {"model": model, "batch": batch, "round": number, "method": method, "phase": phase,
             "ms": round(ms, 4), "sm_mhz": "" if reading.sm_mhz is None else reading.sm_mhz}
            for method, times in taken.items() for phase, ms in times.items() if phase in PHASES
        ]  # fmt: skip
        self.rows += [{k: str(v) for k, v in row.items()} for row in found]
        _append(self.folder / "rounds.csv", ROUND, found)

    def mark(self, model: str, batch: int, method: str, status: str) -> None:
        """A method that takes no further part in a block."""
        row = {"model": model, "batch": str(batch), "method": method, "status": status}
        self.status.append(row)
        _append(self.folder / "status.csv", STATUS, [row])
        print(f"  {method}: {status}", flush=True)

    def marked(self, model: str, batch: int, method: str) -> str:
        """Why it takes no part, or nothing."""
        key = (model, str(batch), method)
        return next(
            (r["status"] for r in self.status if (r["model"], r["batch"], r["method"]) == key), ""
        )

    def counted(self, model: str, method: str) -> bool:
        """Whether its FLOPs are known."""
        return method in self.flops.get(model, {})

    def note_flops(self, model: str, method: str, tflops: Any) -> None:
        """TFLOP of a sample by phase."""
        self.flops.setdefault(model, {})[method] = dict(tflops)
        (self.folder / "flops.json").write_text(json.dumps(self.flops, indent=1), encoding="utf-8")

    def _of(self, model: str, batch: int) -> list[dict[str, Any]]:
        return [r for r in self.rows if r["model"] == model and r["batch"] == str(batch)]

    def blocks(self) -> list[tuple[str, int]]:
        """(model, batch) of which anything is known."""
        every = [*self.rows, *self.status]
        return sorted({(row["model"], int(row["batch"])) for row in every})

    def times(self, model: str, batch: int) -> tuple[dict[Any, dict[int, float]], dict[int, Any]]:
        """(method, phase) -> round -> ms, and the clock of each round."""
        found: dict[Any, dict[int, float]] = defaultdict(dict)
        clocks: dict[int, float | None] = {}
        for row in self._of(model, batch):
            number = int(row["round"])
            found[row["method"], row["phase"]][number] = float(row["ms"])
            clocks[number] = float(row["sm_mhz"]) if row["sm_mhz"] else None
        return found, clocks


def summary(rounds: Rounds, order: Sequence[str]) -> list[dict[str, Any]]:
    """A row a model, batch, method and phase; a method that was left out has its reason."""
    rows: list[dict[str, Any]] = []
    for model, batch in rounds.blocks():
        times, clocks = rounds.times(model, batch)
        kept = ratios.kept_rounds([clocks[n] for n in sorted(clocks)])
        keep = {n for n, one in zip(sorted(clocks), kept, strict=True) if one}
        for method in order:
            about = {"model": model, "batch": batch, "method": method, "aim": AIM}
            status = rounds.marked(model, batch, method)
            if status:
                rows.append({**about, "status": status})
            for phase in PHASES:
                if (method, phase) in times:
                    flops = {m: rounds.flops.get(model, {}).get(m, {}).get(phase)
                             for m in ("dense", method)}  # fmt: skip
                    found = _row(times, keep, method, phase, flops)
                    if phase == "prefill" and not rounds.about["dry_run"]:
                        found["published_realisation"] = PUBLISHED.get(method)
                    rows.append({**about, **found, "phase": phase, "status": status or "timed"})
    return rows


def _row(times: Any, keep: set[int], method: str, phase: str, flops: Any) -> dict[str, Any]:
    ours, dense = times[method, phase], times.get(("dense", phase), {})
    shared = sorted(keep & set(ours) & set(dense)) or sorted(keep & set(ours))
    spread = ratios.spread([ours[n] for n in shared])
    row: dict[str, Any] = {
        "rounds": len(shared), "rejected": len(set(ours) - keep),
        "median_ms": round(spread.median, 3), "p10_ms": round(spread.p10, 3),
        "p90_ms": round(spread.p90, 3),
    }  # fmt: skip
    if method == "dense" or not set(shared) <= set(dense):
        return row
    gain = ratios.speedup([dense[n] for n in shared], [ours[n] for n in shared], 0)
    less = ratios.flops_ratio(flops["dense"], flops[method])
    for name, one in (("speedup", gain), ("realisation", ratios.realisation(gain, less))):
        if one is not None:
            row |= {name: _short(one.value), f"{name}_ci_low": _short(one.low),
                    f"{name}_ci_high": _short(one.high)}  # fmt: skip
    row["flops_ratio"] = _short(less)
    return row


def _short(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, 4)


def write_summary(rows: Sequence[dict[str, Any]], folder: Path, dry: bool) -> None:
    """summary.csv, and the prefill and decode rows on the screen."""
    with (folder / "summary.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, SUMMARY, restval="")
        writer.writeheader()
        writer.writerows(rows)
    print("toy size on a CPU: the path is checked, the numbers mean nothing" if dry else "")
    print(f"{'model, batch, method':58} phase      ms     speed-up  FLOPs  realised  published")
    for row in rows:
        name = f"{row['model'].rpartition('/')[2]}, {row['batch']}, {row['method']}"
        if row.get("phase") in ("prefill", "decode"):
            cells = [row.get(k) for k in ("speedup", "flops_ratio", "realisation")]
            text = "  ".join("     -" if v is None else f"{v:6.2f}" for v in cells)
            also = row.get("published_realisation")
            print(f"{name:58} {row['phase']:8}{row['median_ms']:9.2f}  {text}    {also or ''}")
        elif "phase" not in row:
            print(f"{name:58} {row['status']}")
    print(
        f"{folder}: realisation in prefill aims at {AIM}; published: FastV's table, on an A100; "
        "two papers' own code reached 0.78 and 0.74",
        flush=True,
    )


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]  # a cut last line


def _append(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        writer.writerows(rows)
