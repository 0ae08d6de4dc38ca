"""Models spread over devices by accelerate: hooks move inputs and fetch weights at every call."""

from __future__ import annotations

from typing import Any

from harness.common.errors import UsageError

# What the engine notes on an argument is lost when it is moved; the model moves the tensors itself.
CARRIED = ("mm_encoder_outputs",)


def come_back(model: Any, decoder: Any) -> None:
    """Let every part of a spread decoder give its output back on the device of its input.

    The engine joins what layers give with what it kept of before, on one device: where the
    embeddings are. Raises UsageError where these are on none.
    """
    if model.device.type == "meta":
        raise UsageError(
            "--device-map: the embeddings fit on no device here, only on disk: free memory, or "
            "choose a smaller --dtype or model"
        )
    inside = {*decoder.modules()} - {decoder}
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        if hook is None or not hasattr(hook, "skip_keys"):
            continue
        hook.io_same_device = hook.io_same_device or module in inside
        known = [hook.skip_keys] if isinstance(hook.skip_keys, str) else hook.skip_keys or []
        hook.skip_keys = {*known, *CARRIED}


def require_in_memory(model: Any, label: str) -> None:
    """Raise UsageError where trained weights cannot be put over the model's: they are elsewhere."""
    away = [name for name, value in model.named_parameters() if value.device.type == "meta"]
    if away:
        raise UsageError(
            f"--device-map: {len(away)} weights of the model lie on the host or on disk, the first "
            f"is {away[0]}: {label} brings trained weights, which need all of them on devices"
        )
