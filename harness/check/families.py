"""The matrix of methods and model families: does a method run exactly on a family, or why not?

``run_suite.py --check METHOD|all|PATH.py --family NAME|all``. On a tiny random model of every
family: nothing dropped is the dense model, tokens and cache bytes are those of the record, the
ledger counts every matrix product that runs and no other, a padded batch is its single prompts,
kernels agree, no token sees a later one, nothing is left behind. What needs one family's pictures
(blank patches, training, every parameter) is checked on LLaVA alone, without ``--family``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import methods
from harness.check import choosing, running, several
from harness.check.case import Case, NotApplicable
from harness.check.settings import variants
from harness.common.errors import UsageError, one_line
from harness.common.nearest import unknown
from harness.engine import EngineError, model_info
from harness.engine.model import check_method, find_parts
from harness.families.catalog import FAMILIES
from harness.store.columns import FAMILIES as COLUMNS
from harness.store.csvfile import write_csv
from methods.base import Method, MethodError
from methods.files import blamed, said

WORKS, REFUSED, FAILED = "works", "refused", "failed"
ALL = "all"

CHECKS: tuple[Callable[[Case], None], ...] = (
    running.nothing_dropped,
    running.cache_is_recorded,
    running.recount,
    running.work_is_counted,
    running.batch_is_single,
    running.kernels_agree,
    running.future_unseen,
    running.text_untouched,
    several.images_are_recorded,
    several.each_keeps_its_own,
    running.no_trace,
    running.tower_left_alone,
    choosing.order_is_kept,
)


@dataclass(frozen=True)
class Verdict:
    """One field of the matrix; ``reason`` in one line where the method does not work."""

    family: str
    method: str
    status: str
    reason: str = ""
    seconds: float = 0.0

    def row(self) -> dict[str, Any]:
        """As `families.csv` has it."""
        return {
            "family": self.family, "method": self.method, "status": self.status,
            "reason": self.reason, "seconds": round(self.seconds, 2),
        }  # fmt: skip


def named_families(name: str) -> list[str]:
    """The families that a word on the command line means. Raises UsageError with the nearest."""
    if name != ALL and name not in FAMILIES:
        raise UsageError("--family: " + unknown("family", name, [*FAMILIES, ALL]))
    return list(FAMILIES) if name == ALL else [name]


def matrix(specs: Sequence[str], families: Sequence[str]) -> Iterator[Verdict]:
    """Every method on every family, family by family; several families in as many processes."""
    if len(families) == 1:
        yield from _column(specs, families[0])
        return
    workers = min(len(families), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for found in pool.map(partial(_list_of, specs), families):
            yield from found


def _list_of(specs: Sequence[str], family: str) -> list[Verdict]:
    return list(_column(specs, family))


def _column(specs: Sequence[str], family: str) -> Iterator[Verdict]:
    """Every method on one family, on one thread: models this small only wait for others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for spec in specs:
            started = time.perf_counter()
            status, reason = _verdict(methods.parse(spec), family)
            yield Verdict(family, spec, status, reason, time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)


def _verdict(method: Method, family: str) -> tuple[str, str]:
    case = Case(method, family=family)
    try:
        check_method(find_parts(case.model), method)
        method.fits(model_info(case.model))
    except (MethodError, EngineError) as error:
        return REFUSED, one_line(error) + _instead(case)
    for test in CHECKS:
        try:
            test(case)
        except NotApplicable:
            continue
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: it would end the suite unseen
            own = isinstance(error, AssertionError) and str(error).partition("\n")[0]
            return FAILED, f"{test.__name__}: {blamed(error) or own or said(error)}"
    return WORKS, ""


def _instead(case: Case) -> str:
    """What of the method's parameters would run here, if one alone does."""
    for name, other in variants(case.method, model_info(case.model)).items():
        try:
            check_method(find_parts(case.model), other)
        except (MethodError, EngineError):
            continue
        return f"; {name}={getattr(other, name)} works"
    return ""


def run_matrix(name: str, family: str, out: Path | None, say: Callable[[str], None]) -> bool:
    """``--check NAME --family FAMILY``: the matrix as it fills, and `families.csv` in ``out``.

    True where nothing failed; a refusal is no failure. Raises UsageError for unknown families.
    """
    families = named_families(family)
    specs = methods.names() if name == ALL else [name]
    found = []
    for verdict in matrix(specs, families):
        found.append(verdict)
        say(f"{verdict.status:7} {verdict.family}: {verdict.method}"
            + (f" ({verdict.reason})" if verdict.reason else ""))  # fmt: skip
    count = {status: sum(v.status == status for v in found) for status in (WORKS, REFUSED, FAILED)}
    seconds = sum(v.seconds for v in found)
    say(f"{count[WORKS]} work, {count[REFUSED]} refused, {count[FAILED]} failed; {seconds:.0f} s")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_csv(out / "families.csv", COLUMNS, [verdict.row() for verdict in found])
    return count[FAILED] == 0
