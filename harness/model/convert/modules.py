"""A method's own modules filled with released tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.common.errors import one_line
from harness.model.convert.layout import Source
from harness.model.convert.released import listed
from methods.base import Method, MethodError, ModelInfo

if TYPE_CHECKING:
    from torch import Tensor, nn


def filled(
    source: Source, method: Method, info: ModelInfo, found: dict[str, Tensor]
) -> nn.Module | None:
    """The method's modules for a model like ``info`` with these tensors, in their dtype.

    Raises UsageError for missing, extra and misshapen ones, and a method that does not fit.
    """
    try:
        method.fits(info)
        modules = method.build_modules(info)
    except MethodError as error:
        raise source.refuse(one_line(error)) from None
    wanted = {} if modules is None else modules.state_dict()
    for names, what in ((wanted.keys() - found, "lacks"), (found.keys() - wanted, "has")):
        if names:
            raise source.refuse(
                f"it {what} weights of the method that '{method.spec}' on {info.layers} layers "
                f"{'needs' if what == 'lacks' else 'does not have'}: {listed(names)}"
            )
    for name, value in wanted.items():
        if value.shape != found[name].shape:
            raise source.refuse(
                f"{name} of the method has shape {list(found[name].shape)}, a model of width "
                f"{info.width} needs {list(value.shape)}"
            )
    if modules is None:
        return None
    modules.to(next(iter(found.values())).dtype)
    modules.load_state_dict(found)
    return modules
