"""Models at their published sizes, without weights: what the first user with a GPU would meet."""

from __future__ import annotations

import pytest

from harness.check.dryrun import dry_run
from harness.families.catalog import FAMILIES

# Millions of parameters that the releases themselves state, or that their files' sizes give.
STATED = {
    "llava-hf/llava-1.5-7b-hf": 7063,
    "Qwen/Qwen2-VL-7B-Instruct": 8291,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8292,
    "Qwen/Qwen3-VL-8B-Instruct": 8767,
}


def one_of(family: str) -> str:
    """Its model nearest to seven billion parameters by name."""
    names = list(FAMILIES[family].published)
    return next((n for n in names if "7b" in n.lower() or "8b" in n.lower()), names[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_published_size_meets_no_surprise(family: str) -> None:
    found = dry_run(one_of(family), ["dense", "fastv", "pmod", "gamma", "blind", "visionzip"])
    assert found.family == family
    assert abs(found.off) < 0.005  # memory is predicted from it
    assert found.difference < 1e-9  # three counters
    assert {"dense", "fastv", "pmod", "gamma", "blind"} <= set(found.works)
    if found.model in STATED:
        assert round(found.parameters / 1e6) == STATED[found.model]
