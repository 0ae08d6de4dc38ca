"""Models at their published sizes, without weights: what the first user with a GPU would meet."""

from __future__ import annotations

import re

import pytest

from harness.check.dryrun import dry_run
from harness.families.catalog import FAMILIES, shape_of
from tests.tiers import some

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


@pytest.mark.parametrize("family", some(FAMILIES, "llava", "llava_next", "qwen2_5_vl", "llava_hr"))
def test_a_published_size_meets_no_surprise(family: str) -> None:
    found = dry_run(one_of(family), ["dense", "fastv", "pmod", "gamma", "blind", "visionzip"])
    assert found.family == family
    assert abs(found.off) < 0.005  # memory is predicted from it
    assert found.difference < 1e-9  # three counters
    assert {"dense", "fastv", "pmod", "gamma", "blind"} <= set(found.works)
    if found.model in STATED:
        assert round(found.parameters / 1e6) == STATED[found.model]


LLAVA = ("llava", "llava_next", "llava_next_video", "llava_onevision")
RELEASED = [name for kind in LLAVA for name in FAMILIES[kind].published]
LARGEST = "llava-hf/llava-next-110b-hf"


@pytest.mark.parametrize("name", some(RELEASED, *map(one_of, LLAVA), LARGEST))
def test_every_llava_is_built_at_its_size(name: str) -> None:
    found = dry_run(name, ["dense", "fastv", "fastervlm"])
    assert abs(found.off) < 0.005 and found.difference < 1e-9
    assert {"dense", "fastv"} <= set(found.works)
    # The name says its decoder's billions, whether or not the tower counts.
    said = float(re.search(r"([\d.]+)b", name, re.IGNORECASE)[1])
    assert said * 0.9 < found.parameters / 1e9 < said * 1.08 + 0.6
    sight = shape_of(name).vision
    assert ("fastervlm" in found.works) == (sight.class_tokens == 1)
