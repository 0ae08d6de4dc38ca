"""Budgets: `tokens`, `ratio` and `kv` give the layer mean they name, by closed forms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.command.cli import main
from harness.families.catalog import info_of, shape_of
from methods import MethodError, parse
from methods.base import ModelInfo


# FastV at LLaVA-1.5 for a true mean of 192, 128 and 64 of 576 tokens at 32 layers, and one half.
@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        ("fastv:tokens=192", 166), ("fastv:tokens=128", 98), ("fastv:tokens=64", 30),
        ("fastv:k=3:tokens=192", 152), ("fastv:k=3:tokens=128", 82), ("fastv:k=3:tokens=64", 11),
        ("fastv:kv=0.5", 269), ("fastv:ratio=0.5", 269), ("fastv:kv=1", 576), ("fastv:kv=0.01", 0),
    ],
)  # fmt: skip
def test_fastv_solves_what_stays_behind_layer_k(spec: str, kept: int) -> None:
    assert parse(spec).kept(576, 1, 32) == kept


@given(
    st.sampled_from(["fastv", "random", "uniform"]),
    st.integers(1, 3000),
    st.floats(0, 1),
    st.integers(1, 3),
    st.integers(5, 40),
)
def test_the_layer_mean_is_the_budget(name: str, n: int, share: float, k: int, layers: int) -> None:
    method = parse(f"{name}:k={k}:kv={share}")
    mean = (n * k + method.kept(n, 1, layers) * (layers - k)) / layers
    least = n * k / layers
    assert abs(mean - max(n * share, least)) <= 0.5 + 1e-9


def test_tokens_count_for_every_image() -> None:
    assert parse("random:tokens=64").kept(1152, 2, 32) == 128
    assert parse("random:tokens=64").kept(40, 1, 32) == 40
    assert parse("uniform:tokens=64:k=16").kept(96, 1, 32) == 32


@given(st.integers(1, 700), st.floats(0, 1), st.integers(-1, 4))
def test_llavolta_windows_cover_an_image_once(n: int, share: float, k: int) -> None:
    windows = parse(f"llavolta:kv={share}:k={k}").windows(n, 32)
    widths = [width for _, width in windows]
    assert sum(widths) == (n if windows else 0)
    assert not widths or max(widths) - min(widths) <= 1
    mean = (n * max(k, 0) + len(windows) * (32 - max(k, 0))) / 32
    assert abs(mean - max(n * share, n * max(k, 0) / 32)) <= 0.5 + 1e-9


def test_llavolta_halves_as_its_stride_does() -> None:
    assert parse("llavolta:kv=0.53125").windows(576, 32) == parse("llavolta").windows(576, 32)


@pytest.mark.parametrize(("share", "shape"), [(0.25, (12, 12)), (1, (24, 24)), (1 / 3, (13, 15))])
def test_pool_finds_the_nearest_grid(share: float, shape: tuple[int, int]) -> None:
    assert parse(f"pool:kv={share}").shape(24, 24) == shape
    assert parse(f"pool:tokens={round(share * 576)}").shape(24, 24) == shape


@given(
    st.sampled_from(["cosine", "linear"]),
    st.floats(0.15, 1),
    st.integers(2, 60),
)
def test_pmod_schedules_have_the_budget_as_their_mean(kind: str, kv: float, depth: int) -> None:
    ratios = parse(f"pmod:kv={kv}:schedule={kind}").ratios(depth)
    assert sum(ratios) / depth == pytest.approx(kv, abs=1e-9)
    assert all(0.15 - 1e-9 <= r <= 1 for r in ratios)


def test_pmod_at_its_own_budget_is_pmod() -> None:
    mean = sum(parse("pmod").ratios(32)) / 32
    solved = parse(f"pmod:kv={mean}").ratios(32)
    assert solved == pytest.approx(parse("pmod").ratios(32), abs=1e-6)
    constant = parse("pmod:kv=0.5:schedule=constant").ratios(32)
    assert sum(constant) / 32 == pytest.approx(0.5)
    info = ModelInfo(32, 8, 2, 2, 4)
    assert sum(parse("pmod:kv=0.4").mod_layers(info)) > sum(parse("pmod").mod_layers(info))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fastv:kv=0.5:tokens=64", "fastv: tokens and kv exclude each other"),
        ("random:ratio=2", "random: ratio=2.0 is outside 0..1"),
        ("pool:tokens=-1", "pool: tokens must be 0 or more"),
        ("pmod:kv=0.5:ratio=0.3", "pmod: ratio and kv exclude each other"),
        ("pmod:kv=2", "pmod: kv=2.0 is outside 0..1"),
        ("pmod:kv=0.5:schedule=stepped", "pmod: steps make a budget"),
    ],
)
def test_bad_budgets_are_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(MethodError, match="^" + message):
        parse(text)


def test_a_budget_below_what_a_schedule_keeps_is_refused() -> None:
    with pytest.raises(MethodError, match=r"every layer keeps min=0.15, .* min=0.1 would reach"):
        parse("pmod:kv=0.1").check(ModelInfo(32, 8, 2, 2, 4))
    parse("pmod:kv=0.1:min=0.05").check(ModelInfo(32, 8, 2, 2, 4))


LLAVA, NEXT = "llava-hf/llava-1.5-7b-hf", "llava-hf/llava-v1.6-vicuna-7b-hf"
# Before the first drop FastV's k layers, PyramidDrop's eight, SparseVLM's three hold 576 tokens.
OUT_OF_REACH = [
    ("pyramiddrop:tokens=64", 8),
    ("pyramiddrop:tokens=128", 8),
    ("pyramiddrop:kv=0.1111", 8),
    ("fastv:k=8:tokens=64", 8),
    ("fastv:ratio=0.05", 2),
    ("random:k=4:kv=0.1", 4),
    ("uniform:k=16:tokens=192", 16),
    ("llavolta:tokens=30", 2),
    ("sparsevlm:tokens=30", 3),
    ("sparsevlm:version=2:kv=0.05", 3),
    ("illava:vit_remove=0:tokens=64", 8),
]


@pytest.mark.parametrize(("spec", "full"), OUT_OF_REACH)
@pytest.mark.parametrize("model", [LLAVA, NEXT])
def test_a_budget_out_of_reach_names_the_smallest_and_the_way(
    spec: str, full: int, model: str
) -> None:
    """Both what is named as the smallest and what is named as the way are accepted, and keep it."""
    info = info_of(shape_of(model))
    with pytest.raises(MethodError) as caught:
        parse(spec).check(info)
    said = str(caught.value)
    assert f"{full} of 32 layers keep all 576 tokens" in said and "\n" not in said
    head, _, asked = spec.rpartition(":")
    smallest = re.search(r"smallest is (\w+)=([\d.]+)", said)
    way = re.search(r"; (\S+) would reach", said)
    assert smallest and way
    unit = 576 if smallest[1] != "tokens" else 1
    floor = 576 * full / 32
    assert floor - 0.1 <= float(smallest[2]) * unit <= floor + 4.1  # SparseVLM's merged tokens
    changed = way[1].partition("=")[0]
    kept = ":".join(part for part in head.split(":") if not part.startswith(f"{changed}="))
    for good in (f"{head}:{smallest[0].split()[-1]}", f"{kept}:{way[1]}:{asked}"):
        method = parse(good)
        method.check(info)
        wanted = method.target(576)
        assert abs(sum(method.request(info, 576)) / 32 - wanted) <= max(1, 0.02 * wanted)


def test_a_budget_above_what_an_image_has_is_refused_where_that_is_known() -> None:
    known, grids = (info_of(shape_of(name)) for name in (LLAVA, NEXT))
    for spec in ("fastervlm:tokens=640", "pool:tokens=640", "fastv:tokens=640"):
        with pytest.raises(MethodError, match="the largest is tokens=576"):
            parse(spec).check(known)
        parse(spec).check(grids)  # five crops may hold as many
    with pytest.raises(MethodError, match="above the 256 queries"):
        parse("mqt:tokens=300").check(known)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fastervlm:keep=700", "keep=700 is above the 576 patches"),
        ("sparsevlm:keep=600+200+110", "keep must fall, from at most the 576 tokens"),
        ("sparsevlm:keep=100+200+110", "keep must fall"),
        ("pool:side=25", "side=25 is above the 24 patches"),
        ("illava:vit_remove=183", "vit_remove=183 in 4 layers is more than a crop has"),
    ],
)
def test_an_amount_that_no_crop_has_is_refused(spec: str, message: str) -> None:
    with pytest.raises(MethodError, match=re.escape(message)):
        parse(spec).check(info_of(shape_of(LLAVA)))


@pytest.mark.parametrize(
    ("words", "way"),
    [
        (["--methods", "pyramiddrop:kv=0.12", "--bench", "gqa"], "layers=1+4+7"),
        (["--methods", "fastv:k=8:tokens=64", "--costs-only", "--model", LLAVA], "k=3"),
        (["--methods", "random:k=6:kv=0.3", "--throughput"], "k=3"),
    ],
)
def test_the_command_line_refuses_it_before_anything_runs(
    words: list[str], way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main([*words, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "cannot be met" in said and f"{way} would reach" in said
    assert len(said.splitlines()) == 1 and not out.exists()
