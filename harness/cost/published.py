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
from harness.families.catalog import config_for, shape_of
from harness.families.shapes import ModelShape
from harness.store.record import DROPPED, IMAGE, RoutingRecord

DATA = Path(__file__).with_name("published.yaml")
VOCABULARY = 32000  # of the papers' checkpoints; the converted ones pad it
TEXT = 58  # text tokens of the prompt under the one rule
N_OUT = 1  # published figures know the prompt only
FLOPS_TOLERANCE = 0.7  # %, what rounding to a tenth hides of the smallest cell
KV_TOLERANCE = 0.1  # points


@dataclass(frozen=True)
class PaperRow:
    """One row of a published table; see the head of `published.yaml` for the fields."""

    row: str
    model: str
    rule: str
    tflops: float
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
        by = ", by γ-MoD's top-k" if self.skip else ""
        return f"{self.length} tokens, skip {self.skip:.1%}, layers {self.layers}{by}"


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

        A method decides for itself; a skip share is met by γ-MoD's own selection (`gamma_spec`). A
        row of a token count keeps the first image tokens of the dense routing.
        """
        if row.method:
            return self._predicted(row.model, row.method, n_text)
        dense = self._predicted(row.model, "dense", n_text)
        if row.skip:
            return self._predicted(row.model, gamma_spec(row, dense), n_text)
        if row.image_tokens is None:
            return dense
        record = copy.copy(dense)
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


def placement(row: PaperRow, depth: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """[L] the MoD layers of a row without method; none where nothing is skipped."""
    from methods.placement import parse_layers

    routed = np.array(parse_layers("gamma", row.layers, depth))
    return routed & bool(row.skip)


def gamma_spec(row: PaperRow, dense: RoutingRecord) -> str:
    """γ-MoD as a spec whose MoD layers skip the row's share of all tokens of a prompt.

    By the top-k of its training, which takes a share of the tokens up to the image's end. Its
    thresholds need trained weights and the papers' data, of which the share is a measurement.
    """
    head = 1 + int(np.flatnonzero(dense.kinds == IMAGE)[-1])
    skipped = dense.n - _kept(dense.n, row.skip or 0.0)
    # Half a token more, so that cutting to whole ones gives this number.
    return f"gamma:rule=topk:layers={row.layers}:ratio={min(1.0, (skipped + 0.5) / head):.9f}"


def _kept(n: int, skip: float) -> int:
    # The tiny shift keeps int() from turning 13.999999999 tokens into 13.
    return int(n * (1.0 - skip) + 1e-9)


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
    ours = paper_rule_flops(row, records) / TERA
    yield {
        "quantity": "tflops",
        "unit": "TFLOP",
        "paper_value": row.tflops,
        "paper_rule": ours,
        "paper_rule_difference": 100 * (ours / row.tflops - 1),
        "one_rule": cost.prefill["causal"],
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
