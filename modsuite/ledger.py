"""The ledger at a model's true sizes, without weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modsuite.errors import spoken

if TYPE_CHECKING:
    import pandas as pd


def costs(
    model: str,
    methods: str | Sequence[str],
    n_text: int = 58,
    n_out: int = 32,
    dtype: str = "bfloat16",
    budgets: str | Sequence[str | float] = (),
) -> pd.DataFrame:
    """FLOPs and KV cache of one image's prompt and `n_out` new tokens; dense is always added.

    The rows of `cost.csv` (`tflops_mean` in tera-FLOP, 2 a multiply-accumulate), one a method,
    scope, convention and counter. A method whose amounts depend on weights and picture has no row.
    `budgets`: a row each for every method that takes one, as `--budgets`. `model`: a known model's
    name or a folder with its config.json. Raises Error.
    """
    with spoken():
        import pandas as pd

        from harness.cost.referees import Referees
        from harness.cost.rows import cost_rows
        from harness.families.catalog import config_for, shape_from_config
        from harness.jobs.budgets import FLAG, with_budgets
        from harness.jobs.costs import predict
        from harness.jobs.resolve import named_methods, with_dense
        from harness.options.option import checked
        from harness.options.settings import Settings
        from harness.options.validators import budgets as canonical

        specs = (methods,) if isinstance(methods, str) else tuple(methods)
        config = config_for(model)
        shape = shape_from_config(config, model)
        settings = Settings(
            methods=specs, model=model, n_text=n_text, n_out=n_out, dtype=dtype, costs_only=True
        )
        text = budgets if isinstance(budgets, str) else ",".join(map(str, budgets))
        asked = checked(FLAG, canonical, text) if text else ()
        chosen, _ = with_budgets(with_dense(named_methods(specs)), asked, shape)
        found, _left_out = predict(chosen, config, shape, settings, Referees(shape))
        rows = [row for one in found for row in cost_rows(one.about, [one.readout], settings.seed)]
    return pd.DataFrame(rows)
