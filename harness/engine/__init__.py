"""The routing engine: runs a method on an unmodified LLaVA-family model.

>>> with routed(model, method, modules=None, record=True) as run:
...     out = model.generate(**inputs, max_new_tokens=16, do_sample=False)
...     records = run.records()
"""

from harness.engine.context import routed
from harness.engine.model import EngineError, find_parts, model_info
from harness.engine.run import Run
from harness.engine.vision import encode_images

__all__ = ["EngineError", "Run", "encode_images", "find_parts", "model_info", "routed"]
