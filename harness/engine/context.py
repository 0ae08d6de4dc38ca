"""``routed``: one method on one loaded model, as a context that leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from harness.engine.model import EngineError, check_method, find_parts
from harness.engine.run import Run
from harness.engine.scoring import linears_noted
from harness.engine.shadow import shadowed
from methods.base import Method


@contextmanager
def routed(
    model: nn.Module,
    method: Method,
    modules: nn.Module | None = None,
    record: bool = True,
    tokenizer: Any = None,
    clip: Any = None,
) -> Iterator[Run]:
    """Run ``method`` on an unmodified LLaVA-family ``model`` while the context is open.

    ``modules``: the method's own parameters, with weights (``load_checkpoint`` gives them).
    ``record``: note decisions, so that :meth:`Run.records` works.
    ``tokenizer``: the model's own, for methods that read the question's words.
    ``clip``: a ``methods.base.Clip``, for methods that compare image and question in its space.

    Only attributes of this model object are shadowed, no class is touched, and everything is put
    back on exit, also after an exception.
    """
    parts = find_parts(model)
    check_method(parts, method)
    if modules is None and method.build_modules(parts.info) is not None:
        raise EngineError(
            f"{method.name} needs trained weights for this model: "
            f"pass --checkpoint {method.name}=PATH"
        )
    if method.reads_clip and clip is None:
        raise EngineError(
            f"{method.spec} needs the CLIP model of the vision tower: "
            f"pass --checkpoint {method.name}=PATH_OR_ID, or use relevance=words"
        )
    run = Run(parts, method, modules, record, tokenizer, clip)
    with ExitStack() as stack:
        stack.enter_context(shadowed(parts.text, "forward", run._forward))
        stack.enter_context(shadowed(parts.inner, "get_image_features", run._image_features()))
        for module, hook in ((model, run._note_outer), (parts.inner, run._note_inner)):
            handle = module.register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        if record and modules is not None:
            stack.enter_context(linears_noted(modules, run._scoring))
        yield run
