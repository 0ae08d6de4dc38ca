"""The conformance suite: what every method must do, on tiny random models built in memory.

``run_suite.py --check METHOD|all|PATH.py``. Each check takes one method and raises with the reason
where it fails; the names of the bugs they are for, met in public code, stand in the tests.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import methods
from harness.check import choosing, running, settings, several
from harness.check.case import Case, NotApplicable
from harness.engine import model_info
from methods.files import blamed, said


@dataclass(frozen=True)
class CheckResult:
    """One line of the suite's report."""

    method: str
    name: str
    ok: bool
    detail: str = ""

    def __str__(self) -> str:
        mark = "ok  " if self.ok else "FAIL"
        return f"{mark} {self.method}: {self.name}" + (f" ({self.detail})" if self.detail else "")


CHECKS: tuple[Callable[[Case], None], ...] = (
    settings.parameters,
    settings.cell_ids,
    settings.every_parameter_acts,
    running.nothing_dropped,
    choosing.counts_as_requested,
    choosing.budget_is_met,
    choosing.best_are_kept,
    choosing.order_is_kept,
    choosing.numbered_as_said,
    running.cache_is_recorded,
    running.recount,
    running.work_is_counted,
    running.future_unseen,
    running.text_untouched,
    running.batch_is_single,
    running.cache_on_and_off,
    running.kernels_agree,
    running.ties_and_seeds,
    running.seed_counts,
    running.any_resolution,
    several.images_are_recorded,
    several.each_keeps_its_own,
    running.no_trace,
    running.tower_left_alone,
    settings.weights,
    settings.gradients,
)


def title(test: Callable[[Case], None]) -> str:
    """What a check says of itself, on one line."""
    return " ".join((inspect.getdoc(test) or test.__name__).split())


def check(specs: Iterable[str]) -> Iterable[CheckResult]:
    """Run the whole suite on each ``name[:key=value]...``, one result at a time."""
    for spec in specs:
        method = methods.parse(spec)
        subject = Case(method)
        method.fits(model_info(subject.model))
        for test in CHECKS:
            try:
                test(subject)
                yield CheckResult(method.spec, title(test), True)
            except NotApplicable as reason:
                yield CheckResult(method.spec, title(test), True, f"not applicable: {reason}")
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit too: it would end the suite unseen
                own_words = isinstance(error, AssertionError) and str(error).partition("\n")[0]
                detail = blamed(error) or own_words or said(error)
                yield CheckResult(method.spec, title(test), False, detail)


def run_check(name: str, say: Callable[[str], None] = print) -> bool:
    """``--check METHOD|all|PATH.py``: print each result as it comes; True if everything holds."""
    results, started = [], time.process_time()
    for result in check(methods.names() if name == "all" else [name]):
        results.append(result)
        say(str(result))
    failed, idle = sum(not r.ok for r in results), sum(": " in r.detail and r.ok for r in results)
    say(
        f"{len(results) - failed} of {len(results)} checks hold "
        f"({idle} of them not applicable), {time.process_time() - started:.0f} s of CPU"
    )
    return failed == 0
