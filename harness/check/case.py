"""What is checked: one method on a tiny random model, and the tools that every check uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from harness.engine import model_info, routed
from harness.families import tiny
from harness.families.catalog import FAMILIES
from harness.store.record import IMAGE, RoutingRecord
from methods.base import Method

STEPS = 4  # tokens generated
TRIES = 8  # prompts of the rules that one lucky prompt could pass


class NotApplicable(Exception):
    """The property makes no sense for this method; the reason is reported."""


def require(ok: bool, detail: str) -> None:
    """Fail a check with a reason."""
    if not ok:
        raise AssertionError(detail)


@dataclass
class Case:
    """One method on a tiny random model, with random weights if it is trained."""

    method: Method
    attn: str = "sdpa"
    dtype: torch.dtype = torch.float64
    family: str = "llava"

    @cached_property
    def model(self) -> Any:
        return tiny.build(self.family, self.attn, self.dtype)

    @cached_property
    def modules(self) -> Any:
        with torch.random.fork_rng(devices=[]):  # what is drawn is the same every time
            torch.manual_seed(0)
            modules = self.method.build_modules(model_info(self.model))
        return None if modules is None else tiny.randomise(modules).to(self.model.dtype)

    @cached_property
    def image_tokens(self) -> int:
        """Tokens of an image of the test batch, the first of the family's."""
        size, crops = FAMILIES[self.family].tiny_images[0]
        image = tiny.noise(self.model, size, crops, torch.Generator().manual_seed(0))
        return tiny.tokens_of(self.model, image)

    @property
    def rows(self) -> tiny.Rows:
        """The prompts of the test batch: frames for a method that needs several images."""
        return tiny.ROWS if self.method.least_images == 1 else tiny.FRAMES

    @cached_property
    def inputs(self) -> dict[str, Any]:
        return tiny.inputs_of(self.model, self.rows)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of its family's images, in pixels."""
        return [size for size, _ in FAMILIES[self.family].tiny_images]

    def other(self, method: Method) -> Case:
        """The same model under another method, or under one that stands before the real one."""
        twin = Case(method, self.attn, self.dtype, self.family)
        twin.model = self.model  # a cached property is an attribute like any other
        return twin

    @property
    def takes_tiles(self) -> bool:
        """Whether it works where images come in tiles: what is shown smaller images does not."""
        return not (self.method.shrinks and FAMILIES[tiny.TILED].unshrunk)

    def prompt(self, seed: int) -> dict[str, Any]:
        """A prompt with the fewest images that the method takes, another one for every seed."""
        return tiny.inputs_of(self.model, self.rows[:1], seed)

    def row(self, i: int) -> dict[str, Any]:
        """Row i alone, without padding."""
        real = self.inputs["attention_mask"][i].bool()
        family = FAMILIES[self.family]
        names = ("input_ids", "attention_mask", *family.per_token)
        single = {k: self.inputs[k][i][real][None] for k in names}
        first, count = sum(images for _, images, _ in self.rows[:i]), self.rows[i][1]
        if count:
            single |= family.some_images(
                family.counted(self.inputs, tiny.IMAGE), range(first, first + count)
            )
        return single

    @contextmanager
    def running(self, method: Any = None, inputs: dict[str, Any] | None = None) -> Iterator[Any]:
        """The model under the method, or under what stands in for it."""
        tools: dict[str, Any] = {"tokenizer": tiny.words, "clip": tiny.Clip(self.model)}
        with routed(self.model, method or self.method, self.modules, **tools) as run:
            if inputs is not None:
                run.set_samples(None, tiny.questions(inputs["input_ids"]))
            yield run

    def generate(
        self, inputs: dict[str, Any], method: Any = None, **extra: Any
    ) -> tuple[Any, list[RoutingRecord]]:
        """Greedy tokens and logits under the method, and the records of the samples."""
        options = {"do_sample": False, "suppress_tokens": [tiny.IMAGE], "max_new_tokens": STEPS}
        options |= {"return_dict_in_generate": True, "output_logits": True}
        with torch.no_grad(), self.running(method, inputs) as run:
            out = self.model.generate(**inputs, **options, **extra)
            return out, run.records([STEPS] * len(inputs["input_ids"]))

    def prefill(
        self, inputs: dict[str, Any], method: Any = None
    ) -> tuple[torch.Tensor, list[RoutingRecord]]:
        """Logits [B, n, V] of one pass over the prompt, and the records of the samples."""
        with torch.no_grad(), self.running(method, inputs) as run:
            logits = self.model(**inputs).logits
            return logits, run.records([1] * len(inputs["input_ids"]))


def image_tokens(record: RoutingRecord) -> list[int]:
    """Image tokens that each layer processed."""
    return [int(n) for n in record.processed_per_layer(IMAGE)]
