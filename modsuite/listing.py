"""What there is: methods as objects and as a table, and whether one keeps the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modsuite.errors import spoken

if TYPE_CHECKING:
    import pandas as pd

    from methods.base import Method


def parse(spec: str) -> Method:
    """The method behind `name:key=value...`; the name may be a file's path. Raises Error."""
    with spoken():
        import methods as registry

        return registry.parse(spec)


def methods() -> pd.DataFrame:
    """One row a method: name, what it does, whether it is trained, its parameters' defaults."""
    import dataclasses

    import pandas as pd

    import methods as registry

    rows = []
    for name, entry in registry.REGISTRY.items():
        fields = dataclasses.fields(registry.load(name))
        rows.append(
            {
                "name": name,
                "summary": entry.summary,
                "trained": entry.trained,
                "parameters": {field.name: field.default for field in fields},
            }
        )
    return pd.DataFrame(rows).set_index("name")


def families() -> pd.DataFrame:
    """One row a model family: `model_type`, whether it runs (else its sizes alone are known), and
    the models of it that are known by name."""
    import pandas as pd

    from harness.families.catalog import REGISTRY

    rows = [
        {"name": name, "runs": one.loads, "models": list(one.published)}
        for name, one in REGISTRY.items()
    ]
    return pd.DataFrame(rows).set_index("name")


def check(spec: str, family: str | None = None) -> pd.DataFrame:
    """The conformance suite on one method, `all`, or a file: method, check, ok, detail.

    ``family``: a model family or `all`: does it run there? family, method, status, reason, seconds.
    """
    with spoken():
        import pandas as pd

        import methods as registry
        from harness.check import check as results

        specs = registry.names() if spec == "all" else [spec]
        if family is not None:
            from harness.check.families import matrix, named_families

            found = matrix(specs, named_families(family))
            return pd.DataFrame([one.row() for one in found])
        rows: list[dict[str, Any]] = [
            {"method": one.method, "check": one.name, "ok": one.ok, "detail": one.detail}
            for one in results(specs)
        ]
    return pd.DataFrame(rows)
