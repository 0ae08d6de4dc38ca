"""The layouts there are. A new one is one file and one line here; the first that claims reads."""

from __future__ import annotations

from harness.common.errors import UsageError
from harness.families.configs import shown
from harness.model.convert.gamma import GammaLayout
from harness.model.convert.layout import DenseLayout, MethodLayout, Source, Target
from harness.model.convert.llava_original import OriginalLlava
from harness.model.convert.llavolta import LLaVoltaLayout
from harness.model.convert.moe_llava import ReleasedMoeLlava
from harness.model.convert.mqt import MqtLayout
from harness.model.convert.onevision import OneVision
from harness.model.convert.pmod import PModLayout
from harness.model.convert.two_towers import ReleasedLlavaHr, ReleasedMgm

# A layout that only a field more tells from another stands before it.
DENSE: tuple[DenseLayout, ...] = (
    OneVision(),
    ReleasedLlavaHr(),
    ReleasedMgm(),
    ReleasedMoeLlava(),
    OriginalLlava(),
)
METHODS: tuple[MethodLayout, ...] = (PModLayout(), GammaLayout(), MqtLayout(), LLaVoltaLayout())


def target_of(source: Source) -> tuple[str, Target]:
    """The name of a source's layout, and what it becomes. Raises UsageError naming the layouts."""
    method = next((one for one in METHODS if one.claims(source)), None)
    inner = source if method is None else method.dense(source)
    dense = next((one for one in DENSE if one.claims(inner)), None)
    if dense is None:
        kind = shown(source.config.get("model_type"))
        raise UsageError(
            f"{source.folder}: a model of type {kind} in no layout that is read: "
            + ", ".join([*(one.name for one in DENSE), *(one.name for one in METHODS)])
        )
    target = dense.target(inner)
    if method is None:
        return dense.name, target
    return f"{method.name} on {dense.name}", method.wrapped(source, target)
