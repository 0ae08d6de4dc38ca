"""Published MQT-LLaVA weights (the original LLaVA layout) as a checkpoint folder of this harness.

`python -m harness.model.published SOURCE OUT --model llava-hf/llava-1.5-7b-hf`

SOURCE holds the files of `gordonhu/MQT-LLaVA-7b`. The names were read off the released code (commit
92c35d0), not off the weight file: under `model.query_abstractor.` stand `query`, `pos_embed`
(fixed), `proj` [w, d], `ln_q`, `ln_k`, `ln_v` and one `attn` of torch's `MultiheadAttention` form;
everything else is the tuned language model. The frozen CLIP tower, where it stands in the file, is
the base model's own and left out. Whatever does not fit this description is refused by name.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.common.errors import EXIT_USAGE, HarnessError, UsageError, one_line
from harness.common.jsonfile import read_json
from harness.engine import model_info
from harness.model.checkpoints import save_checkpoint
from methods import build
from methods.base import MethodError
from methods.resampler import places

SAMPLER, TOWER = "model.query_abstractor.", "model.vision_tower."
# Names in the original layout -> names in memory.
DECODER = (
    ("model.layers.", "model.language_model.layers."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.norm.", "model.language_model.norm."),
    ("lm_head.", "lm_head."),
)
NORMS = ("ln_q", "ln_k", "ln_v")
PLAIN = ("query", "pos_embed", "proj", "attn.in_proj_weight", "attn.in_proj_bias")
OWN = {
    *PLAIN,
    *(f"{n}.{part}" for n in (*NORMS, "attn.out_proj") for part in ("weight", "bias")),
}
TALL = ("model.language_model.embed_tokens.weight", "lm_head.weight")  # a row a word


def convert(source: Path, out: Path, model: nn.Module) -> None:
    """Write OUT from SOURCE for the base `model` (LLaVA-1.5, which tower and spare rows stay from).

    Raises UsageError, one line, for names or shapes other than the released code's.
    """
    config = _config(source)
    if config.get("unfreeze_mm_vision_tower"):
        raise UsageError(f"{source}: its vision tower was tuned, which is not converted")
    tensors = _read(source)
    sampler = {k.removeprefix(SAMPLER): v for k, v in tensors.items() if k.startswith(SAMPLER)}
    routers = resampler_names(sampler)
    info = model_info(model)
    method = build("mqt", {"queries": int(sampler["query"].shape[0])})
    method.fits(info)
    fresh = method.build_modules(info)
    assert fresh is not None
    for name, value in fresh.state_dict().items():
        if value.shape != routers[name].shape:
            raise UsageError(
                f"{source}: {name} of the resampler has shape {list(routers[name].shape)}, "
                f"this model needs {list(value.shape)}"
            )
    own, _ = places(*fresh["query"].weight.shape[:1], info.tower_side, info.tower_width)  # type: ignore
    if not torch.allclose(sampler["pos_embed"].float(), own, atol=5e-3):
        raise UsageError(f"{source}: pos_embed is not the 2-D sin-cos table of the released code")
    fresh.load_state_dict(routers)
    rest = {k: v for k, v in tensors.items() if not k.startswith((SAMPLER, TOWER))}
    full = decoder_tensors(rest, dict(model.named_parameters()))
    fresh = fresh.to(sampler["query"].dtype)
    save_checkpoint(out, method, fresh, info, full=full, training={"converted": source.name})


def resampler_names(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published resampler under the names of `methods.resampler`."""
    for kind, names in (("lacks", OWN - found.keys()), ("has", found.keys() - OWN)):
        if names:
            what = f"{SAMPLER}{min(names)}"
            raise UsageError(f"the published resampler {kind} {what}: not MQT-LLaVA's layout")
    result = {"query.weight": found["query"], "proj.weight": found["proj"].T}
    for part in ("weight", "bias"):
        result |= {f"{n}.{part}": found[f"{n}.{part}"] for n in NORMS}
        result[f"out.{part}"] = found[f"attn.out_proj.{part}"]
        thirds = found[f"attn.in_proj_{part}"].chunk(3)
        result |= {f"{n}.{part}": third for n, third in zip("qkv", thirds, strict=True)}
    return result


def decoder_tensors(
    found: dict[str, Tensor], parameters: dict[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The tuned language model under names in memory; spare rows of words from the base."""
    full: dict[str, Tensor] = {}
    for name, value in found.items():
        if name.endswith("rotary_emb.inv_freq"):  # older files hold this buffer
            continue
        new = next((b + name.removeprefix(a) for a, b in DECODER if name.startswith(a)), name)
        if new not in parameters:
            raise UsageError(f"the published model has {name}, which MQT-LLaVA's layout has not")
        base = parameters[new]
        if new in TALL and len(value) < len(base):
            value = torch.cat([value, base[len(value) :].detach().to(value)])
        if value.shape != base.shape:
            raise UsageError(
                f"{name} has shape {list(value.shape)}, this model's has {list(base.shape)}"
            )
        full[new] = value
    decoder = tuple(new for _, new in DECODER)
    missing = [n for n in parameters if n.startswith(decoder) and n not in full]
    if missing:
        raise UsageError(f"the published model lacks {missing[0]}")
    return full


def _config(source: Path) -> dict[str, Any]:
    try:
        config = read_json(source / "config.json")
    except (OSError, ValueError) as error:
        raise UsageError(f"{source}: no readable config.json ({one_line(error)})") from None
    if not isinstance(config, dict):
        raise UsageError(f"{source}: config.json is no mapping")
    return config


def _read(source: Path) -> dict[str, Tensor]:
    """All tensors of a folder: safetensors, else PyTorch's own format."""
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for path in sorted(source.glob("*.safetensors")):
        tensors |= load_file(str(path))
    if not tensors:
        for path in sorted(source.glob("pytorch_model*.bin")):
            tensors |= torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not tensors:
        raise UsageError(f"{source}: no weights (*.safetensors or pytorch_model*.bin)")
    return tensors


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 for a source that does not fit."""
    parser = argparse.ArgumentParser(prog="python -m harness.model.published", description=__doc__)
    parser.add_argument("source", type=Path, help="folder of the published files")
    parser.add_argument("out", type=Path, help="checkpoint folder to write")
    parser.add_argument("--model", default="llava-hf/llava-1.5-7b-hf", help="base model")
    args = parser.parse_args(argv)
    try:
        from harness.common.place import check_place
        from harness.model.catalog import load_model

        _config(args.source)  # before any model is loaded
        check_place(args.out)
        convert(args.source, args.out, load_model(args.model, device="cpu").model)
    except (HarnessError, MethodError) as error:
        print(f"error: {one_line(error, 500)}", file=sys.stderr)
        return getattr(error, "exit_code", EXIT_USAGE)
    print(f"{args.out}: run with --checkpoint mqt={args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
