"""Make torchvision importable beside a torch its compiled operators were not built for.

A CPU torch next to a CUDA build of torchvision (the only build some package indexes have) cannot
load torchvision's compiled operators. torchvision then stops at import with "operator
torchvision::nms does not exist", because it registers shape functions for two operators that
nobody declared. Declaring their schemas is enough: image processors and ``transforms.v2`` never
call them, and calling them still fails loudly, for want of a kernel.

Call :func:`declare_missing_ops` before the first import of torchvision, and so before the first
import of a transformers model or image processor, or of lmms-eval.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# A library object withdraws its declarations when it is collected, so it lives here.
_declared: torch.library.Library | None = None


def declare_missing_ops() -> bool:
    """Declare ``torchvision::nms`` and ``torchvision::qnms`` if, and only if, they are missing.

    Returns True when the declarations of this process are in place, False when they were not
    needed: no torchvision, or its compiled operators load. Cheap to call again.
    """
    global _declared
    if _declared is not None:
        return True
    folder = _torchvision_folder()
    if folder is None or _compiled_ops_load(folder):
        return False
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        if not _exists("torchvision::" + schema.partition("(")[0]):
            library.define(schema)
    _declared = library
    return True


def _torchvision_folder() -> Path | None:
    spec = importlib.util.find_spec("torchvision")  # finds a top-level package, imports nothing
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _compiled_ops_load(folder: Path) -> bool:
    """Whether torchvision's own operators are there, loading them the way torchvision would."""
    import torch

    if _exists("torchvision::nms"):
        return True
    for library in sorted(folder.glob("_C*")):
        if library.suffix not in (".so", ".pyd", ".dylib"):
            continue
        try:
            torch.ops.load_library(str(library))
        except (ImportError, OSError):
            return False
    return _exists("torchvision::nms")


def _exists(operator: str) -> bool:
    import torch

    return bool(torch._C._dispatch_has_kernel(operator)) or bool(
        torch._C._jit_get_schemas_for_operator(operator)
    )
