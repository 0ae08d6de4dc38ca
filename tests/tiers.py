"""Cases of a long product: some in the default tier, all of them with ``--slow``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def some(cases: Iterable[Any], *kept: Any) -> list[Any]:
    """The cases for ``parametrize``, those that are not ``kept`` marked slow.

    Raises ValueError for one that is to be kept and is no case: it would be in neither tier.
    """
    cases = list(cases)
    unknown = [one for one in kept if one not in cases]
    if unknown:
        raise ValueError(f"no such case: {unknown}")
    return [one if one in kept else pytest.param(one, marks=pytest.mark.slow) for one in cases]
