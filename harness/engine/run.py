"""``Run``: what stands in for a routed model's own code, and remembers its last prompt."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from harness.engine.arguments import check_decoder, check_media, image_arguments
from harness.engine.cache import RoutedCache, adopt
from harness.engine.decoding import leaves_alone, run_untouched
from harness.engine.loop import plain_mask, run_prompt, run_step
from harness.engine.masks import borders
from harness.engine.model import EngineError, Parts, backend
from harness.engine.positions import PositionIds
from harness.engine.recorder import Recorder
from harness.engine.samples import Growing, Samples, kinds_from_ids, layout
from harness.engine.scoring import Scoring
from harness.engine.sequence import RunningTokens
from harness.engine.vision import captured, no_tower
from harness.store.record import RoutingRecord
from methods.base import ANSWER, Method


class Run:
    """What a routed model remembers of its last prompt."""

    def __init__(
        self,
        parts: Parts,
        method: Method,
        modules: nn.Module | None,
        record: bool,
        tokenizer: Any = None,
        clip: Any = None,
    ) -> None:
        self.parts, self.method, self.modules, self.record = parts, method, modules, record
        self.info, self.tokenizer, self.clip = parts.info, tokenizer, clip
        self._cache: RoutedCache | None = None
        self._recorder: Recorder | None = None
        self._losses: list[Tensor] = []
        self._names: list[str] | None = None
        self._questions: list[str] | None = None
        self._kinds: Tensor | None = None
        self._ids: Tensor | None = None  # of the call in progress
        self._labels: Tensor | None = None
        self._features: Any = None
        self._extents: Any = None  # what the model was told of its images' sizes
        self._extents_field = parts.family.extents or ""
        self._growing = Growing()
        self.ended_at: Tensor | None = None  # [..., B or 1, 1] position of the prompt's last column

    # --- what callers use -------------------------------------------------------------------
    def set_samples(
        self, names: Sequence[str] | None, questions: Sequence[str] | None = None
    ) -> None:
        """Names of the rows of the next batch (seeds of random methods, record labels).

        ``questions``: each row's question as text, for methods that look for its words.
        """
        self._names = list(names) if names is not None else None
        self._questions = list(questions) if questions is not None else None

    def set_kinds(self, kinds: Tensor | None) -> None:
        """Token kinds uint8 [B, n] of the next forward call, where input ids cannot tell them.

        Behind a cache new tokens are an answer's unless this says otherwise.
        """
        self._kinds = kinds

    def set_labels(self, labels: Tensor | None) -> None:
        """Labels [B, n] of the next forward call, where the model itself is not given them.

        A token with one (not -100) is the answer's.
        """
        self._labels = labels

    def aux_loss(self) -> Tensor | None:
        """Auxiliary loss of the last forward pass (already weighted), or None."""
        return torch.stack([loss.float() for loss in self._losses]).sum() if self._losses else None

    def records(self, out_lengths: Sequence[int] | None = None) -> list[RoutingRecord]:
        """One record per row of the last ``generate`` or forward call.

        Decode steps of a row end where a stop token was fed, or at ``out_lengths`` generated
        tokens (the last one is never fed). The KV cache, if there is one, is asserted to hold
        exactly what the records say.
        """
        if self._recorder is None:
            raise EngineError("nothing was recorded: run the model first, with record=True")
        lengths = list(out_lengths) if out_lengths is not None else None
        stop = getattr(self.parts.model.generation_config, "eos_token_id", None)
        ids = set() if stop is None else set(stop if isinstance(stop, (list, tuple)) else [stop])
        return self._recorder.records(self.parts, self.method, lengths, self._cache, ids)

    @property
    def cache(self) -> RoutedCache | None:
        """Of the last call; None without one."""
        return self._cache

    @property
    def recorder(self) -> Recorder | None:
        """Of the last prompt and what was fed behind it."""
        return self._recorder

    def _scoring(self) -> Scoring | None:
        return self._recorder.scoring if self._recorder is not None else None

    # --- what the model's own code calls ----------------------------------------------------
    def _note_outer(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._labels = kwargs.get("labels")

    def _note_inner(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        check_media(kwargs)
        self._ids = kwargs.get("input_ids", args[0] if args else None)
        if kwargs.get("pixel_values_videos") is not None:
            raise EngineError("video cannot be routed yet: give its frames as images")
        if kwargs.get(self._extents_field) is not None:
            self._extents = kwargs[self._extents_field]
        given = (kwargs.get("mm_encoder_outputs") or {}).get("image")
        if given is not None:
            if self._features is not given:
                self._extents = getattr(given, "extents", self._extents)
            self._features = given

    def _image_features(self) -> Any:
        inner, family, config = self.parts.inner, self.parts.family, self.parts.model.config
        original, plain = inner.get_image_features, type(inner).get_image_features

        @functools.wraps(original)  # generate reads the signature
        def features(*args: Any, **kwargs: Any) -> Any:
            given = image_arguments(original, args, kwargs, config, family.fixed)
            method = self.method  # asked for at every call: staged training changes it
            if not method.needs_images:
                with no_tower(self.parts):
                    out = plain(inner, *args, **kwargs)
            else:
                with captured(self.parts, method) as found:
                    out = found.attach(original(*args, **kwargs))
            self._features = out
            self._extents = given.get(self._extents_field)
            return out

        return features

    def _forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Stands in for the decoder's forward."""
        deep = {name: kwargs.pop(name, None) for name in self.parts.family.deepstack}
        check_decoder(kwargs)
        text, ids = self.parts.text, self._ids if input_ids is None else input_ids
        self._ids = None
        if inputs_embeds is None:
            inputs_embeds = text.embed_tokens(input_ids)
        training = bool(text.training)
        if use_cache is None:
            use_cache = past_key_values is not None or not training
            use_cache = use_cache and bool(getattr(text.config, "use_cache", True))
        cache = adopt(past_key_values, self._cache) if use_cache else None
        length = cache.global_length if cache is not None else 0
        if position_ids is None:
            steps = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
            position_ids = (steps + length).unsqueeze(0)
        kwargs = {"use_cache": use_cache}
        if cache is not None and length:
            hidden = self._step(inputs_embeds, ids, attention_mask, position_ids, cache, kwargs)
        else:
            growing = past_key_values is None and use_cache is False and not training
            added = self.parts.family.added(deep, inputs_embeds)
            self.ended_at = position_ids[..., -1:]
            hidden = self._prompt(
                inputs_embeds, ids, attention_mask, position_ids, cache, kwargs, growing, added
            )
        if cache is not None:
            cache.global_length = length + inputs_embeds.shape[1]
        self._labels = None
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=cache)

    # --- the two passes ---------------------------------------------------------------------
    def _prompt(
        self,
        embeds: Tensor,
        ids: Tensor | None,
        mask: Tensor | None,
        position_ids: Tensor,
        cache: RoutedCache | None,
        kwargs: dict[str, Any],
        growing: bool,
        added: list[Tensor],
    ) -> Tensor:
        kind = backend(self.parts.config)
        positions, single = PositionIds.given(position_ids, self.parts.family.axes)
        plain = plain_mask(self.parts.config, embeds, mask, cache, single)
        base, valid = layout(embeds, mask, single, cache, plain, kind)
        samples, start = self._samples(embeds, ids, valid, growing)
        seq = RunningTokens(
            self.parts, kind, self.modules, embeds, samples.kinds, valid, positions,
            samples.counts, samples.image_counts, samples.head_counts, samples,
            training=bool(self.parts.text.training), base=base, added=added,
        )  # fmt: skip
        seq.seed(positions.rotary(self.parts.text, embeds), plain)
        self._recorder = None
        if self.record and not seq.training:
            self._recorder = Recorder(samples, start)
        self._cache = cache
        if cache is not None:
            cache.on_reorder = self._reordered
        kwargs = kwargs | {"position_ids": borders(kind, single)}
        hidden = run_prompt(self.method, seq, cache, kwargs, self._recorder)
        self._losses = seq.losses
        return hidden

    def _samples(
        self, embeds: Tensor, ids: Tensor | None, valid: Tensor, growing: bool
    ) -> tuple[Samples, int]:
        """Host facts of the batch, and the column at which generated tokens begin."""
        n = embeds.shape[1]
        start = self._growing.begins(ids, growing) if ids is not None else n
        if self._kinds is not None:
            kinds, self._kinds = self._kinds.to(embeds.device), None
        elif ids is None:
            raise EngineError("routing needs input_ids, or the token kinds by run.set_kinds")
        else:
            answers = None
            if self._labels is not None:
                answers = self._labels.to(ids.device) != -100
            elif start < n:
                columns = torch.arange(n, device=ids.device)
                answers = (columns >= start).expand(ids.shape)
            kinds = kinds_from_ids(ids, self.parts.image_token, valid, answers)
        samples = Samples(self.parts, kinds, valid, ids)
        if start < n:
            samples.ids = None if ids is None else ids[:, :start]
        samples.names, samples.features = self._names, self._features
        samples.questions, samples.tokenizer = self._questions, self.tokenizer
        samples.extents, samples.clip = self._extents, self.clip
        return samples, start

    def _step(
        self, embeds: Tensor, ids: Tensor | None, mask: Tensor | None, position_ids: Tensor,
        cache: RoutedCache, kwargs: dict[str, Any],
    ) -> Tensor:  # fmt: skip
        if mask is not None and mask.dim() != 2:
            raise EngineError("a 4-D mask cannot be used behind a routed cache")
        if cache is not self._cache:
            raise EngineError("this cache belongs to another routing context: start without one")
        rows, width = embeds.shape[:2]
        if ids is not None and width > 1 and bool((ids == self.parts.image_token).any()):
            raise EngineError("image tokens behind a cache: chunked prefill cannot be routed")
        kinds, self._kinds = self._kinds, None
        if kinds is None:
            kinds = torch.full((rows, width), ANSWER, dtype=torch.uint8)
        if kinds.shape != (rows, width):
            raise EngineError(f"kinds {list(kinds.shape)} for new tokens [{rows}, {width}]")
        kind = backend(self.parts.config)
        positions, _ = PositionIds.given(position_ids, self.parts.family.axes)
        if ids is None:
            ids = torch.zeros((rows, width), dtype=torch.long, device=embeds.device)
        if leaves_alone(self.method):
            if self._recorder is not None:
                self._recorder.passed(ids)
            return run_untouched(self.parts, kind, embeds, positions, cache, kwargs)
        cache.settle()
        kinds = kinds.to(embeds.device)
        seq = RunningTokens(
            self.parts, kind, self.modules, embeds, kinds, torch.ones_like(kinds, dtype=torch.bool),
            positions, [width] * rows, [0] * rows, [0] * rows, None, training=False, generated=True,
        )  # fmt: skip
        return run_step(self.method, seq, cache, kwargs, self._recorder, ids)

    def _reordered(self, rows: Tensor) -> None:
        if self._recorder is not None:
            self._recorder.order.append(rows)
