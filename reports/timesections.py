"""The sections and sentences of measured times, the first screen first."""

from __future__ import annotations

import math
from pathlib import Path

from reports import (
    breakeven,
    load,
    loadsections,
    loadtext,
    speedfigure,
    speedtables,
    style,
    tables,
    text,
    timing,
    waterfall,
)
from reports.section import Section
from reports.summary import Summary
from reports.timing import Board, Timed

MOST_NAMES = 3
NOTHING = "Nothing has been timed (yet)."
FAILURES = "These have no numbers anywhere in this report; nothing stands in for them."


def sections(summary: Summary, folder: Path) -> list[Section]:
    """Speed-ups first; then phases, where the time goes, and where it pays."""
    entries = timing.timed(summary)
    board = timing.board(summary, entries)
    loads = load.read(summary)
    if loads:
        found = loadsections.sections(summary, loads, folder)
    elif not board.works:
        found = [Section("speed", "Speed-up over dense", NOTHING)]
    else:
        words = "mini" if summary.is_mini_model else "", timing.watermark(entries)
        mark = ", ".join(filter(None, words))
        with style.context():
            found = _measured(summary, board, folder, mark)
    failed = tables.failures(summary)
    if failed is not None:
        found.append(Section("failures", "Failed and missing times", FAILURES, (), (failed,)))
    return found


def _measured(summary: Summary, board: Board, folder: Path, mark: str) -> list[Section]:
    drawn = speedfigure.draw(board, folder, mark)
    maps = breakeven.draw(summary, board, folder, mark)
    falls = waterfall.draw(board, folder, mark)
    ranked, pays = speedtables.ranked(summary, board), breakeven.table(board)
    found = [Section("speed", "Speed-up over dense", "", (drawn,) if drawn else (),
                     (ranked,) if ranked else (), first=True)]  # fmt: skip
    if maps is not None:
        said = breakeven.finding(board)
        found.append(Section("breakeven", "Where a method beats dense", said, (maps,),
                             (pays,) if pays else ()))  # fmt: skip
    found.append(_phases(summary, board))
    if falls is not None:
        said = waterfall.finding(board)
        none = "No method differs from dense beyond the interval: there is nothing to explain."
        found.append(Section("waterfall", "Where the time goes", said or none, (falls,),
                             open_figures=1 if said else 0))  # fmt: skip
    return found


def _phases(summary: Summary, board: Board) -> Section:
    """One table a workload, closed: the first screen has what they come to."""
    found = tuple(speedtables.by_phase(summary, board, work) for work in board.works)
    said = _phase_finding(board)
    return Section("phases", "Phase by phase", said, (), found, folded=True)


def _phase_finding(board: Board) -> str:
    """How much of the saving in FLOPs became time in the prompt, at most and at least."""
    known = [
        (entry, phase)
        for entry in board.at.values()
        if not (entry.series.is_reference or entry.series.is_control)
        and (phase := entry.phases.get("prefill")) is not None
        and not math.isnan(phase.realisation)
    ]
    if not known:
        return ""
    parts = []
    for pick, word in ((max, "most"), (min, "least")):
        entry, phase = pick(known, key=lambda one: one[1].realisation)
        ci = text.interval(phase.realisation_low, phase.realisation_high, 2)
        share = f"{text.number(phase.realisation, 2)} {ci}".rstrip()
        of = f"of {text.number(phase.flops_ratio, 2)}×"
        where = f" on {board.names[entry.workload]}" if len(board.works) > 1 else ""
        parts.append(f"{word} with {name(entry)}{where}, {share} {of}")
    return f"Of the prefill's FLOPs ratio, time realises {'; '.join(dict.fromkeys(parts))}."


def name(entry: Timed) -> str:
    """How sentences call a row."""
    return entry.series.short or entry.series.label


def sentences(board: Board) -> list[str]:
    """Who is fastest, what is faster than dense and what is not, and what FLOPs had promised."""
    if not board.works:
        return []
    found = _leader(board), _settled(board), _best_backend(board)
    return [one for one in found if one]


def _methods(board: Board, work: str) -> list[Timed]:
    """Methods with a speed-up on a workload, fastest first; controls only where nothing else is."""
    known = [e for e in board.of(work) if not e.series.is_reference and e.speedup == e.speedup]
    return [e for e in known if not e.series.is_control] or known


def _leader(board: Board) -> str:
    """The fastest method of the slowest workload, and of how many others it is the fastest too."""
    work = board.slowest
    known = _methods(board, work)
    if not known:
        return ""
    best, whole = known[0], known[0].phases["end_to_end"]
    said = f"On {board.names[work]}, {name(best)} is fastest: {whole.gain} over dense end to end"
    said += {"slower": " (slower than dense)", "open": " (not told apart from dense)"}.get(
        whole.verdict, ""
    )
    if not math.isnan(whole.flops_ratio):
        said += f", where FLOPs promise {text.number(whole.flops_ratio, 2)}×"
    near = [name(e) for e in known[1:] if e.phases["end_to_end"].speedup_high >= whole.speedup_low]
    if near:
        named = near if len(near) <= MOST_NAMES else [text.plural(len(near), "other method")]
        said += f"; not told apart from {text.listing(named)} (the intervals overlap)"
    if len(board.works) > 1:
        also = [w for w in board.works if (m := _methods(board, w)) and m[0].series == best.series]
        said += f". It is the fastest on {len(also)} of {len(board.works)} workloads"
    return said + "."


def _settled(board: Board) -> str:
    """Pairs of method and workload counted, and by name what is slower and what is open."""
    told: dict[str, list[Timed]] = {}
    for work in board.works:
        for entry in board.of(work):
            whole = entry.whole
            plain = entry.series.is_reference or entry.series.is_control
            if whole is not None and whole.verdict and not plain:
                told.setdefault(whole.verdict, []).append(entry)
    count = sum(map(len, told.values()))
    if not count:
        return ""
    said = f"Faster than dense beyond the interval: {len(told.get('faster', []))} of {count} pairs"
    for word, phrase in (("slower", "slower"), ("open", "neither")):
        if word in told:
            said += f"; {phrase}: {_named(board, told[word])}"
    return said + "."


def _named(board: Board, entries: list[Timed]) -> str:
    """Methods with their lowest speed-up, and on how many workloads it is one."""
    found: dict[str, list[Timed]] = {}
    for entry in sorted(entries, key=lambda e: e.speedup):
        found.setdefault(name(entry), []).append(entry)
    parts = []
    for who, known in found.items():
        gain = known[0].phases["end_to_end"].gain
        on = f" on {board.names[known[0].workload]}" if len(board.works) > 1 else ""
        many = f" on {len(known)} workloads, lowest {gain}{on}" if len(known) > 1 else ""
        parts.append(f"{who}{many or f'{on} ({gain})'}")
    more = f" and {text.plural(len(parts) - MOST_NAMES, 'more method')}"
    return "; ".join(parts[:MOST_NAMES]) + (more if len(parts) > MOST_NAMES else "")


def _best_backend(board: Board) -> str:
    """Under a backend that is not dense's best, how many methods beat dense at its best."""
    known = [
        (e, whole.vs_best)
        for work in board.works
        for e in _methods(board, work)
        if (whole := e.whole) is not None and not math.isnan(whole.vs_best)
    ]
    if not known:
        return ""
    fast = sum(ratio > 1 for _, ratio in known)
    best, ratio = max(known, key=lambda one: one[1])
    return (
        f"These times are not at dense's best backend: against that, {fast} of {len(known)} are "
        f"faster, at best {name(best)} with {text.number(ratio, 2)}× (medians)."
    )


Page = tuple[str, list[str], tuple[tuple[str, str], ...]]


def page(summary: Summary) -> Page:
    """The opening, the findings and how to read a run's times, phase by phase or under load."""
    loads = load.read(summary)
    if loads:
        return loadtext.opening(summary, loads), loadtext.sentences(loads), loadtext.READING
    board = timing.board(summary, timing.timed(summary))
    return opening(summary, board), sentences(board), READING


def opening(summary: Summary, board: Board) -> str:
    """One plain sentence of what was timed."""
    models = text.listing(list(dict.fromkeys(s.model for s in summary.series if s.model)))
    device = str(summary.run.get("device_name") or "an unnamed device")
    rows = text.plural(len([s for s in summary.series if not s.is_reference]), "method")
    works = text.plural(len(board.works), "workload")
    total = sum(cell.status != "missing" for cell in summary.cells.values())
    done = f"{summary.count('done')} of {text.plural(total, 'cell')} done"
    failed = f", {summary.count('failed')} failed" if summary.count("failed") else ""
    what = f"Measured times of {rows} against dense on {works}"
    return f"{what}, model {models}, on {device}: {done}{failed}."


READING = (
    ("Time", "is the median over rounds of one call for the whole batch."),
    (
        "Speed-up",
        "is dense's median over the method's. Both ran in the same process on the same weights, in "
        "turn; the 95 % interval draws whole rounds again. Above 1 the method is faster. Each row "
        "is read by itself: “faster” and “slower” are not corrected for the number of rows.",
    ),
    (
        "Phases",
        "vision is tower and projector, prefill from there to the first token, decode all later "
        "tokens. End to end is the host's clock around the whole call; preparing the prompt is "
        "not in it.",
    ),
    (
        "FLOPs ratio and realisation",
        "are dense's FLOPs over the method's in the same phase (convention causal), and speed-up "
        "over that: 1 when the whole saving became time, and 1 / FLOPs ratio when none of it did. "
        "Its interval is the speed-up's: FLOPs are counted.",
    ),
    ("Break-even", "counts only where the whole interval of the speed-up lies above 1."),
    (
        "Answers",
        "of a batch are compared with the same rows alone; a share below 100 % names rows that "
        "differ at numeric ties. A batch that answers wrongly is a failed cell.",
    ),
    ("A dash", "means not measured, never zero."),
)
"""How to read the report of a timing run."""
