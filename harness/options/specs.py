"""Names of methods as a user wrote them, checked before anything heavy is imported. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from harness.common.errors import UsageError
from harness.common.nearest import unknown


def check_known_methods(specs: Sequence[str], flag: str) -> None:
    """Refuse unknown method names before anything heavy is imported."""
    import methods

    for spec in specs:
        name = spec.partition(":")[0].strip()
        if name.endswith(".py"):  # a file of the user's own, read when it is parsed
            continue
        if name not in methods.names():
            raise UsageError(f"{flag}: " + unknown("method", name, methods.names()))
