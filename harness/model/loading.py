"""Turning model files into a model that is ready to generate: device, dtype, attention backend."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from harness.common.conditions import ATTENTION, ATTENTION_ALIASES, DTYPE_ALIASES, DTYPES
from harness.common.errors import UsageError, one_line
from harness.common.ranks import Rank, this
from harness.common.torchvision_ops import declare_missing_ops
from harness.families.catalog import shape_from_config
from harness.model.features import FeatureCache
from harness.model.offload import come_back
from harness.model.quiet import quiet_library
from harness.model.session import Session
from harness.model.weights import read_header, weight_files

if TYPE_CHECKING:
    from harness.model.source import ModelSource, Progress

# A model is spread over devices when its weights fill more than this share of the free memory:
# the rest is for activations and the KV cache.
WEIGHTS_SHARE = 0.8
SPREAD = "auto"
DeviceMap = str | Mapping[str, Any] | None  # a word of transformers', or module -> device or disk


def load(
    source: ModelSource,
    device: str,
    dtype: str,
    attn: str,
    progress: Progress | None,
    feature_cache_mib: int,
    device_map: DeviceMap = None,
) -> Session:
    """See :func:`harness.model.catalog.load_model`."""
    declare_missing_ops()
    place = pick_device(device)
    kind = pick_dtype(dtype, place, mini=source.mini)
    backend = pick_attention(attn, place, kind)
    if device_map is None and device == "auto" and place.type == "cuda":
        device_map = None if _fits(source, kind, place) else SPREAD
    tell = progress or (lambda line: None)
    tell(f"loading {source.model_id} on {device_map or place}, {_name(kind)}, {backend}")
    with quiet_library():
        model = _model(source, kind, backend, device_map or place)
        processor = load_processor(source)
    if device_map is not None:
        come_back(model, source.family.decoder(model))
    model.eval().requires_grad_(False)
    left_out = _greedy_defaults(model)
    return Session(
        model=model,
        processor=processor,
        source=source,
        device_name=_device_name(place) + (" (spread over devices)" if device_map else ""),
        dtype=_name(kind),
        attn=backend,
        info=shape_from_config(model.config.to_dict(), source.model_id),
        features=FeatureCache(feature_cache_mib * 2**20) if feature_cache_mib else None,
        notes=left_out,
    )


def pick_device(wish: str) -> torch.device:
    """The torch device behind a wish; UsageError if this machine has none such.

    Of several processes each gets the CUDA device of its number on this machine.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wish == "auto":
        wish = "cuda" if cuda else "mps" if mps else "cpu"
    rank = this()
    if not rank.alone and wish not in ("cpu", "cuda"):
        raise UsageError(
            f"--device: {wish} is one device, and {rank.count} processes run: with --device cuda "
            "each takes one of its own, or start one process"
        )
    have = ", ".join(["cpu", *(["mps"] if mps else []), *_cuda_names()])
    try:
        device = torch.device(wish)
    except RuntimeError:
        raise UsageError(f"--device: unknown device '{wish}'; this machine has {have}") from None
    missing = {"cuda": not cuda, "mps": not mps, "cpu": False}
    if missing.get(device.type, True):
        raise UsageError(f"--device: no {wish} on this machine; it has {have}")
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise UsageError(f"--device: no {wish} on this machine; it has {have}")
        return torch.device("cuda", _share(rank) if device.index is None else device.index)
    return device


def _share(rank: Rank) -> int:
    """The CUDA device of this process, one where its launcher shows it no other."""
    count = torch.cuda.device_count()
    if rank.local >= count > 1:
        raise UsageError(
            f"--device: {rank.here} processes and {count} CUDA devices on this machine: start one "
            f"process a device (--nproc-per-node {count})"
        )
    return rank.local if count > 1 else 0


def _cuda_names() -> list[str]:
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


def pick_dtype(wish: str, device: torch.device, mini: bool = False) -> torch.dtype:
    """The dtype behind a wish. ``auto``: float32 on a CPU and for mini models, where it costs
    little, else bfloat16 where the device has it, else float16."""
    wish = DTYPE_ALIASES.get(wish, wish)
    if wish not in DTYPES:
        raise UsageError(f"--dtype: unknown dtype '{wish}'; choose from {', '.join(DTYPES)}")
    has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if wish == "auto":
        if mini or device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if device.type == "cuda" and has_bf16 else torch.float16
    if wish == "bfloat16" and not has_bf16:
        raise UsageError(f"--dtype: {device} has no bfloat16; use float16 or float32")
    return {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }[wish]


def pick_attention(wish: str, device: torch.device, dtype: torch.dtype) -> str:
    """The attention backend behind a wish; ``auto`` is sdpa everywhere."""
    wish = ATTENTION_ALIASES.get(wish, wish)
    if wish not in ATTENTION:
        raise UsageError(f"--attn: unknown backend '{wish}'; choose from {', '.join(ATTENTION)}")
    if wish == "auto":
        return "sdpa"
    if wish == "flash_attention_2":
        if device.type != "cuda":
            raise UsageError(f"--attn: flash_attention_2 needs a CUDA device, not {device}")
        if dtype == torch.float32:
            raise UsageError("--attn: flash_attention_2 needs --dtype bfloat16 or float16")
        if importlib.util.find_spec("flash_attn") is None:
            raise UsageError("--attn: flash_attention_2 needs the package flash-attn; sdpa works")
    return wish


def _model(source: ModelSource, dtype: torch.dtype, backend: str, place: Any) -> Any:
    """The transformers model at its place, every weight of it from the files."""
    try:
        model, report = source.family.model_class().from_pretrained(
            source.folder,
            dtype=dtype,
            attn_implementation=backend,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            device_map=place,
        )
    except torch.OutOfMemoryError:
        raise UsageError(
            f"--device: {source.model_id} does not fit on {place} as {_name(dtype)}; "
            "use --device auto, which spreads it, or a smaller --dtype"
        ) from None
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{source.folder}: cannot be loaded: {one_line(error, 200)}") from None
    # Without this check a missing weight would silently be a random one.
    missing = sorted(map(str, report["missing_keys"]))
    if missing:
        raise UsageError(
            f"{source.folder}: {len(missing)} weights are missing, the first is {missing[0]}"
        )
    return model


def load_processor(source: ModelSource) -> Any:
    """Tokenizer and image processor; padding on the left, as batched generation needs."""
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(
            source.folder, local_files_only=True, trust_remote_code=False,
            **source.family.processor_arguments,
        )  # fmt: skip
        tokenizer = processor.tokenizer
    except Exception as error:  # the tokenizer library raises nothing more specific
        wanted = ("preprocessor_config.json", "processor_config.json")
        if not any((source.folder / one).is_file() for one in wanted):
            raise UsageError(f"{source.folder}: no {' and no '.join(wanted)}") from None
        raise UsageError(f"{source.folder}: no usable processor: {one_line(error, 200)}") from None
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # Old processor files leave these out; the model's config knows them.
    for name in source.family.processor_fields:
        if getattr(processor, name, None) is None:
            config = source.config
            known = {**config["vision_config"], **config}.get(name)
            if known is None:
                raise UsageError(f"{source.folder}: neither processor nor config has {name}")
            setattr(processor, name, known)
    source.family.check_processor(processor, source.config, str(source.folder))
    return processor


def _fits(source: ModelSource, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the weights leave room on the device, in the dtype they will have there."""
    count = 0
    for path in weight_files(source.folder):
        for entry in read_header(path).values():
            size = 1
            for side in entry["shape"]:
                size *= int(side)
            count += size
    free, _ = torch.cuda.mem_get_info(device)
    return count * dtype.itemsize <= WEIGHTS_SHARE * free


# What would let an answer be another than that of the highest logits, and the value that does not.
_PLAIN: dict[str, Any] = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "bad_words_ids": None, "suppress_tokens": None,
    "begin_suppress_tokens": None, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None, "sequence_bias": None, "guidance_scale": None,
    "min_length": 0, "min_new_tokens": None,
}  # fmt: skip


def _greedy_defaults(model: Any) -> list[str]:
    """Let greedy decoding take the token with the highest logit, whatever a checkpoint ships.

    Sampling values go without a word: greedy decoding does not read them. What would change greedy
    answers is left out too, and returned as notes for the results.
    """
    config = model.generation_config
    config.do_sample = False
    config.num_beams = 1
    config.temperature = config.top_p = config.top_k = None
    changed = []
    for name, plain in _PLAIN.items():
        value = getattr(config, name, None)
        if value in (None, plain):
            continue
        changed.append(f"{name}={one_line(str(value), 40)}")
        setattr(config, name, plain)
    if not changed:
        return []
    return [f"of the checkpoint's generation config not used: {', '.join(changed)}"]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return str(device)
