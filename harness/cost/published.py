"""The cost tables of papers, counted again: under their own rule and under one rule for all.

`published.yaml` holds the printed figures with the setting that gives each; here they become
lines of `published.csv`: paper, ours under the paper's rule, ours under the one rule. Torch-free
up to the first row that runs a method.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.common.errors import UsageError
from harness.common.nearest import unknown
from harness.cost.ledger import TERA, eager_attention, gamma_rule, prefill_flops, sample_cost
from harness.families.catalog import config_for, info_of, shape_of
from harness.families.shapes import ModelShape
from harness.store.record import DROPPED, IMAGE, RoutingRecord

DATA = Path(__file__).with_name("published.yaml")
VOCABULARY = 32000  # of the papers' checkpoints; the converted ones pad it
TEXT = 58  # text tokens of the prompt under the one rule
PREFIX = 35  # of them before the image
N_OUT = 1  # published figures know the prompt only
FLOPS_TOLERANCE = 0.7  # %, what rounding to a tenth hides of the smallest cell
KV_TOLERANCE = 0.1  # points


@dataclass(frozen=True)
class PaperRow:
    """One row of a published table; see the head of `published.yaml` for the fields."""

    row: str
    model: str
    rule: str
    tflops: float | None  # None: the paper counts none
    kv: float | None = None
    method: str | None = None
    image_tokens: int | None = None
    skip: float | None = None
    layers: str = "default"
    dense_layers: int | None = None
    length: int | None = None
    paper_text: int = TEXT
    kv_of: int | None = None
    note: str = ""
    others: tuple[Mapping[str, Any], ...] = ()
    unreproducible: Mapping[str, str] = field(default_factory=dict)

    @property
    def setting(self) -> str:
        """What gives the row, in a few words."""
        if self.method:
            return f"{self.method}, {self.paper_text} text tokens"
        if self.image_tokens is not None:
            return f"{self.image_tokens} image tokens, {self.paper_text} text tokens"
        how = f"gamma rule=topk at the paper's skip {self.skip:.1%}, layers {self.layers}"
        return f"{self.length} tokens under its rule, {how if self.skip else 'dense'}"


@dataclass(frozen=True)
class PaperTable:
    """A published table with its rows and what must be said of all of them."""

    name: str
    paper: str
    table: str
    title: str
    rows: tuple[PaperRow, ...]
    notes: tuple[str, ...] = ()


def table_names() -> list[str]:
    """The tables that can be asked for."""
    return list(_read()["tables"])


def load_table(name: str) -> PaperTable:
    """One table of `published.yaml`; UsageError names the nearest when there is none such."""
    tables = _read()["tables"]
    if name not in tables:
        raise UsageError("--published: " + unknown("table", name, list(tables)))
    content = dict(tables[name])
    rows = tuple(PaperRow(**one) for one in content.pop("rows"))
    return PaperTable(name=name, rows=rows, **content)


def _read() -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load(DATA.read_text(encoding="utf-8")))


class Records:
    """Routing of rows and models, each asked for once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, int], RoutingRecord] = {}

    def of(self, row: PaperRow, n_text: int) -> RoutingRecord:
        """The row's routing on one image and `n_text` text tokens.

        A method decides for itself. A skip share is γ-MoD run through the engine, which skips that
        share by the top-k rule of its training; a token count keeps the first tokens of the dense
        routing.
        """
        method = method_of(row, n_text)
        if method:
            return self._predicted(row.model, method, n_text)
        record = copy.copy(self._predicted(row.model, "dense", n_text))
        record.route = record.route.copy()
        image = np.flatnonzero(record.kinds == IMAGE)
        record.route[:, image[row.image_tokens :]] = DROPPED
        return record

    def _predicted(self, model: str, method: str, n_text: int) -> RoutingRecord:
        key = (model, method, n_text)
        if key not in self._known:
            import methods
            from harness.cost.replica import predicted_record

            config = config_for(model)
            self._known[key] = predicted_record(methods.parse(method), config, n_text, N_OUT)
        return self._known[key]


def method_of(row: PaperRow, n_text: int) -> str:
    """The method that a row is run with; empty where it is a number of image tokens.

    A threshold's skip share depends on weights and data: what the paper measured is asked of the
    top-k rule, whose ratio is a share of the tokens up to the last of the image.
    """
    if row.method or row.image_tokens is not None:
        return row.method or ""
    if not row.skip:
        return "dense"
    n = n_text + info_of(shape_of(row.model)).image_tokens
    head = n - n_text + min(PREFIX, n_text // 2)
    # As many as the paper's formula keeps; the tiny shift keeps 13.999999999 tokens from being 13.
    skipped = n - int(n * (1.0 - row.skip) + 1e-9)
    # Half a token more, so that rounding down gives this number.
    return f"gamma:rule=topk:layers={row.layers}:ratio={(skipped + 0.5) / head:.6f}"


def placement(row: PaperRow, depth: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """[L] the MoD layers of a row without method; none where nothing is skipped."""
    from methods.placement import parse_layers

    routed = np.array(parse_layers("gamma", row.layers, depth))
    return routed & bool(row.skip)


def paper_shape(model: str) -> ModelShape:
    """The sizes of a model with the papers' vocabulary."""
    return replace(shape_of(model), vocab=VOCABULARY)


def paper_rule_flops(row: PaperRow, records: Records) -> float:
    """FLOPs of the row's prompt, counted as its paper counts."""
    shape = paper_shape(row.model)
    if row.rule == "paper-gamma":
        assert row.length is not None
        dense = row.dense_layers
        if dense is None:
            dense = shape.layers - int(placement(row, shape.layers).sum())
        return gamma_rule(shape, row.length, row.skip or 0.0, dense)
    record = records.of(row, row.paper_text)
    flops = prefill_flops(shape, record, "paper-pmod")
    if row.rule == "paper-pmod-eager":
        return flops + eager_attention(shape, record.processed_per_layer())
    if row.rule != "paper-pmod":
        raise ValueError(f"{row.row}: no such rule: {row.rule}")
    return flops


def lines(table: PaperTable, records: Records) -> Iterator[dict[str, Any]]:
    """Lines of `published.csv`: one for each row and quantity."""
    for row in table.rows:
        about = {
            "paper": table.paper,
            "table": table.table,
            "row": row.row,
            "model": row.model,
            "method": row.method or "",
            "rule": row.rule,
            "setting": row.setting,
        }
        notes = {"note": row.note}
        for one in _counted(row, records):
            reason = row.unreproducible.get(one["quantity"], "")
            marks = {"reproducible": int(not reason), "reason": reason}
            has_paper = one.get("paper_value") is not None
            yield {**about, **one, **(marks if has_paper else {}), **notes}
        for other in row.others:
            yield {
                **about,
                "quantity": other["quantity"],
                "unit": other["unit"],
                "paper_value": other["value"],
                "hardware": other["hardware"],
                "reproducible": 0,
                "reason": "measured by the paper on its own machine",
                "note": other.get("note", ""),
            }


def _counted(row: PaperRow, records: Records) -> Iterator[dict[str, Any]]:
    """FLOPs and KV cache of a row, three ways each."""
    record = records.of(row, TEXT)
    cost = sample_cost(record, paper_shape(row.model), itemsize=2)
    counted = {"quantity": "tflops", "unit": "TFLOP", "one_rule": cost.prefill["causal"]}
    if row.tflops is None:
        assert cost.kv_ratio_vision is not None  # every row has an image
        yield counted
        kept = 100 * cost.kv_ratio_vision
        yield {"quantity": "kv", "unit": "% of image tokens", "one_rule": kept}
        return
    ours = paper_rule_flops(row, records) / TERA
    yield {
        **counted,
        "paper_value": row.tflops,
        "paper_rule": ours,
        "paper_rule_difference": 100 * (ours / row.tflops - 1),
        "one_rule_difference": 100 * (cost.prefill["causal"] / row.tflops - 1),
        "difference_unit": "%",
    }
    if row.kv is None:
        yield {"quantity": "kv", "unit": "% of all tokens", "one_rule": 100 * cost.kv_ratio_all}
        return
    assert cost.kv_ratio_vision is not None  # every row has an image
    kept = paper_kv = 100 * cost.kv_ratio_vision
    if row.kv_of:
        paper_kv = kept * record.n_image / row.kv_of
    yield {
        "quantity": "kv",
        "unit": "% of image tokens",
        "paper_value": row.kv,
        "paper_rule": paper_kv,
        "paper_rule_difference": paper_kv - row.kv,
        "one_rule": kept,
        "one_rule_difference": kept - row.kv,
        "difference_unit": "points",
    }


def reproduced(line: Mapping[str, Any]) -> bool:
    """Whether a counted line is within its tolerance of the paper."""
    limit = {"tflops": FLOPS_TOLERANCE, "kv": KV_TOLERANCE}.get(line["quantity"], math.inf)
    return abs(line["paper_rule_difference"]) <= limit
