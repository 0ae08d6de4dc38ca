"""The paired test: closed forms, every sign written out, and no floor."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.statistics import signflip


def by_hand(values: list[Fraction]) -> float:
    """Share of all signs under which the sum is as far from 0 as it is."""
    seen = abs(sum(values))
    signs = list(itertools.product((1, -1), repeat=len(values)))
    far = [abs(sum(s * v for s, v in zip(row, values, strict=True))) >= seen for row in signs]
    return sum(far) / len(signs)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (7, 2), (30, 30), (40, 11), (300, 210)])
def test_single_answers_are_mcnemars_exact_test(won: int, lost: int) -> None:
    moved = won + lost
    tail = sum(math.comb(moved, k) for k in range(max(won, lost), moved + 1))
    expected = min(1.0, 2 * tail / 2**moved)
    sums = np.array([1.0] * won + [-1.0] * lost + [0.0] * 50)
    assert signflip.exact(sums, 1.0) == pytest.approx(expected, rel=1e-9)
    assert signflip.exact(100 * sums, 100.0) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.integers(-90, 90), min_size=1, max_size=9))
def test_every_sign_written_out(thirtieths: list[int]) -> None:
    """Sums over images of scores in thirtieths, as VQA's are; float sums of them are not exact."""
    values = [Fraction(v, 30) for v in thirtieths]
    sums = np.array([float(v) for v in values])
    assert signflip.exact(sums, 1.0) == pytest.approx(by_hand(values), abs=1e-12)
    assert signflip.exact(-sums, 1.0) == signflip.exact(sums, 1.0)


def test_many_images_reach_any_family() -> None:
    """No floor of a thousandth or so, and as the normal curve has it in between."""
    from scipy.stats import norm

    assert 0 < signflip.exact(np.ones(400), 1.0) < 1e-15
    rng = np.random.default_rng(0)
    sums = rng.normal(0.04, 0.5, 600)
    z = abs(sums.sum()) / math.sqrt(float((sums**2).sum()))
    assert signflip.exact(sums, 1.0) == pytest.approx(2 * norm.sf(z), rel=0.05)


def test_drawn_signs_agree_with_every_sign_written_out() -> None:
    """Two benches of different size: their images weigh 1/7 and 1/10 of a half each."""
    first, second = (
        [Fraction(v, 14) for v in (1, 1, -1, 2, 1)],
        [Fraction(v, 20) for v in (1, 3, 0, -1)],
    )
    benches = [(name, np.array([[float(v), 0.0] for v in row]))
               for name, row in (("a", first), ("b", second))]  # fmt: skip
    sums = signflip.flipped(benches, 0)
    total = float(sum(abs(v) for v in first + second))
    assert sums[0, 0] == pytest.approx(float(sum(first + second)))
    found = signflip.drawn(sums[:, 0] - sums[:, 1], total)
    assert found == pytest.approx(by_hand(first + second), abs=0.01)  # 4 standard errors
    assert signflip.drawn(sums[:, 1], 0.0) == 1.0


def test_signs_of_a_row_do_not_hang_on_the_others() -> None:
    rng = np.random.default_rng(1)
    sums = rng.integers(-2, 3, (40, 3)).astype(float)
    together = signflip.flipped([("a", sums), ("b", sums)], 5)
    alone = signflip.flipped([("a", sums[:, 1:2]), ("b", sums[:, 1:2])], 5)
    assert (together[:, 1] == alone[:, 0]).all()
    assert np.corrcoef(together[1:, 0] - signflip.flipped([("a", sums[:, :1])], 5)[1:, 0],
                       signflip.flipped([("a", sums[:, :1])], 5)[1:, 0])[0, 1] < 0.05  # fmt: skip
