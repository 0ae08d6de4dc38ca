"""MoE-LLaVA (arXiv 2401.15947): LLaVA-1.5 whose every second decoder layer has four MLPs.

A gate sends each token to two of the four experts and weighs their outputs by its softmax, the two
weights renormalised. No token is dropped: the release's capacity at evaluation, 2 x 2.0 x n / 4,
is a slot for each of n tokens. An image is CLIP's 576 patches behind a two-layer projector. Where
the paper and the released code differ: DeepSpeed's gate draws the second expert with Gumbel noise,
also at evaluation; here, as in the paper, it is the second largest share.

Runs on decoders whose MLP is Llama's: the published Mistral (OpenChat) and StableLM-2, Llama, and
Qwen2, which is what the published Qwen-1.8B is under other names. Phi-2's attention and MLP stand
side by side behind one norm, which no method of this harness has a place in: its sizes are known to
the ledger and it does not run. Training adds no load balancing of the experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from harness.common.errors import UsageError
from harness.families.configs import shown
from harness.families.decoders import Sizes
from harness.families.llava import Llava, config_of
from harness.families.shapes import Mixture, ModelShape

DECODERS = ("llama", "mistral", "qwen2", "stablelm")
CHOSEN = 2  # experts a token is sent to
# StableLmConfig's defaults, and what of it changes nothing but when it is off.
STABLELM: Sizes = {
    "hidden_size": 2560,
    "intermediate_size": 6912,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 50304,
}
_OFF: dict[str, tuple[str, ...]] = {
    "llama": ("mlp_bias",),
    "stablelm": ("use_parallel_residual", "qk_layernorm", "hidden_dropout"),
}

# StableLM-2-1.6B's, Qwen-1.8B's, OpenChat-3.5's and Phi-2's own sizes.
_STABLELM_1_6B = {
    "model_type": "stablelm", "hidden_size": 2048, "intermediate_size": 5632,
    "num_hidden_layers": 24, "vocab_size": 100352, "use_qkv_bias": True,
}  # fmt: skip
_QWEN_1_8B = {
    "model_type": "qwen2", "hidden_size": 2048, "intermediate_size": 5504,
    "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 16,
}  # fmt: skip
_OPENCHAT_7B = {"model_type": "mistral", "sliding_window": None}
_PHI_2 = {"hidden_size": 2560, "intermediate_size": 10240}


class MoeLlava(Llava):
    """`model_type` moe_llava, a name of this harness."""

    kind = "moe_llava"
    says: ClassVar[Sizes] = {
        **Llava.says,
        "num_local_experts": 4,
        "num_experts_per_tok": CHOSEN,
        "moe_layers_idx": None,  # every second layer from the first
    }
    published: ClassVar[dict[str, Sizes]] = {
        "moe-llava-1.6b-4e": config_of("moe_llava", _STABLELM_1_6B, 100352),
        "moe-llava-qwen-1.8b-4e": config_of("moe_llava", _QWEN_1_8B, 151936),
        "moe-llava-7b-4e": config_of("moe_llava", _OPENCHAT_7B, 32002),
    }
    summaries: ClassVar[dict[str, str]] = {
        "moe-llava-1.6b-4e": "MoE-LLaVA, StableLM 1.6B, 2 of 4 experts, 576 image tokens",
        "moe-llava-qwen-1.8b-4e": "MoE-LLaVA, Qwen 1.8B, 2 of 4 experts, 576 image tokens",
        "moe-llava-7b-4e": "MoE-LLaVA, OpenChat 7B, 2 of 4 experts, 576 image tokens",
    }

    def completed(self, config: Mapping[str, Any], name: str) -> dict[str, Any]:
        text = config.get("text_config")
        kind = None
        if isinstance(text, Mapping):
            kind = _checked_decoder(text, name)
            if kind == "stablelm":  # its sizes have Llama's names and meaning
                sizes = {**STABLELM, **text, "model_type": "llama"}
                config = {**config, "text_config": sizes}
        full = super().completed(config, name)
        full["text_config"]["model_type"] = kind
        depth = full["text_config"]["num_hidden_layers"]
        if full["moe_layers_idx"] is None:
            full["moe_layers_idx"] = list(range(0, depth, 2))
        _check_mixture(full, depth, name)
        return full

    def shape(self, config: Mapping[str, Any], name: str) -> ModelShape:
        full = self.completed(config, name)
        return replace(super().shape(config, name), mixture=_mixture(full))

    def resized(
        self, config: Mapping[str, Any], text: Mapping[str, Any], sight: Mapping[str, Any]
    ) -> dict[str, Any]:
        small = super().resized(config, text, sight)
        decoder = small["text_config"]
        depth = decoder["num_hidden_layers"]
        small["moe_layers_idx"] = [i for i in config["moe_layers_idx"] if i < depth]
        if decoder["model_type"] == "stablelm" and decoder["head_dim"] < 8:
            decoder["rope_parameters"] = None  # a quarter of such a head is no pair of numbers
            decoder["partial_rotary_factor"] = 1.0
        return small

    def config_class(self) -> Any:
        from harness.families.moe_llava_model import MoeLlavaConfig

        return MoeLlavaConfig

    def model_class(self) -> Any:
        from harness.families.moe_llava_model import MoeLlavaForConditionalGeneration

        return MoeLlavaForConditionalGeneration


class MoeLlavaPhi(Llava):
    """`model_type` moe_llava_phi, MoE-LLaVA's name for it: sizes only, under Llama's names."""

    kind = "moe_llava_phi"
    loads = False
    published: ClassVar[dict[str, Sizes]] = {
        "moe-llava-2.7b-4e": config_of("moe_llava_phi", _PHI_2, 51200)
    }
    summaries: ClassVar[dict[str, str]] = {
        "moe-llava-2.7b-4e": "MoE-LLaVA, Phi-2 2.7B, 2 of 4 experts, 576 image tokens"
    }

    def shape(self, config: Mapping[str, Any], name: str) -> ModelShape:
        found = super().shape(config, name)
        mixture = Mixture(tuple(range(0, found.layers, 2)), experts=4, chosen=CHOSEN)
        return replace(found, mixture=mixture, mlp_matrices=2)


def _checked_decoder(text: Mapping[str, Any], name: str) -> str:
    """The decoder's type; UsageError where its layers or MLPs are built in another way."""
    kind = text.get("model_type")
    if kind not in DECODERS:
        only = " (only its sizes are known: moe-llava-2.7b-4e)" if kind == "phi" else ""
        raise UsageError(
            f"{name}: text_config.model_type is {shown(kind)}{only}; the decoders of MoE-LLaVA "
            "that run are " + ", ".join(DECODERS)
        )
    for key in _OFF.get(str(kind), ()):
        if text.get(key):
            raise UsageError(
                f"{name}: text_config.{key} is {shown(text[key])}: no MoE-LLaVA was built so, and "
                "its experts cannot be"
            )
    return str(kind)


def _check_mixture(full: Mapping[str, Any], depth: int, name: str) -> None:
    """Raise UsageError for experts that cannot be."""
    layers, experts = full["moe_layers_idx"], full["num_local_experts"]
    fits = isinstance(layers, (list, tuple)) and all(type(i) is int for i in layers)
    if not fits or len(set(layers)) < len(layers) or any(not 0 <= i < depth for i in layers):
        raise UsageError(
            f"{name}: moe_layers_idx is {shown(layers)}, not a list of different layers from 0 to "
            f"{depth - 1}"
        )
    if type(experts) is not int or experts < CHOSEN:
        raise UsageError(
            f"{name}: num_local_experts is {shown(experts)}, not a whole number above {CHOSEN - 1}"
        )
    if full["num_experts_per_tok"] != CHOSEN:
        raise UsageError(
            f"{name}: num_experts_per_tok is {shown(full['num_experts_per_tok'])}: only {CHOSEN} "
            "works, whose renormalised weights are MoE-LLaVA's"
        )


def _mixture(full: Mapping[str, Any]) -> Mixture | None:
    """The experts of a complete config, as sizes."""
    layers = tuple(sorted(full["moe_layers_idx"]))
    return Mixture(layers, full["num_local_experts"], CHOSEN) if layers else None
