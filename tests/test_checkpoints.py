"""Weights of trained methods: exact round trips, exact restoration, one line for what is wrong."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.common.errors import UsageError
from harness.engine import model_info, routed
from harness.jobs import resolve
from harness.jobs.resolve import find_checkpoints
from harness.model.checkpoints import (
    META,
    CheckpointError,
    load_checkpoint,
    resolve_method,
    save_checkpoint,
)
from harness.model.weights import SINGLE
from harness.options.settings import Settings
from methods import parse
from tests.fakes import FakeSource
from tests.routing_tools import ROWS, random_modules
from tests.tiny import batch, tiny_llava

QKV = "model.language_model.layers.1.self_attn.q_proj.weight"
HEAD = "lm_head.weight"


def low_rank(model, name, rank=2):
    out, inner = dict(model.named_parameters())[name].shape
    return torch.randn(rank, inner), torch.randn(out, rank)


@pytest.fixture
def saved(tmp_path):
    """A model, a method, its random modules, and a checkpoint with a delta and a full tensor."""
    torch.manual_seed(0)
    model, method = tiny_llava(layers=5), parse("pmod:beta=0.3")
    modules = random_modules(method, model)
    head = torch.randn_like(dict(model.named_parameters())[HEAD])
    delta = low_rank(model, QKV)
    save_checkpoint(
        tmp_path / "ck", method, modules, model_info(model), {QKV: delta}, {HEAD: head},
        base="abc", training={"steps": 3},
    )  # fmt: skip
    return model, method, modules, delta, head, tmp_path / "ck"


def test_round_trip_and_bit_exact_restoration(saved):
    model, method, modules, (a, b), head, folder = saved
    before = {k: v.clone() for k, v in model.state_dict().items()}
    loaded = load_checkpoint(folder, model, method, base="abc")
    assert loaded.method == method
    assert loaded.meta["training"] == {"steps": 3}
    for name, value in modules.state_dict().items():
        assert torch.equal(loaded.modules.state_dict()[name], value)
    with loaded.applied(model):
        now = model.state_dict()
        assert torch.equal(now[HEAD], head)
        assert torch.equal(now[QKV], before[QKV] + b @ a)
        changed = [k for k in before if not torch.equal(before[k], now[k])]
        assert sorted(changed) == sorted([HEAD, QKV])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(ZeroDivisionError), loaded.applied(model):
        raise ZeroDivisionError
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_low_precision_weights_are_merged_in_float32(tmp_path):
    model, method = tiny_llava(layers=5, dtype=torch.bfloat16), parse("pmod")
    a, b = low_rank(model, QKV)
    old = dict(model.named_parameters())[QKV].detach().clone()
    save_checkpoint(
        tmp_path, method, random_modules(method, model), model_info(model), {QKV: (a, b)}
    )
    loaded = load_checkpoint(tmp_path, model, method)
    with loaded.applied(model):
        merged = dict(model.named_parameters())[QKV]
        assert torch.equal(merged, (old.float() + b @ a).bfloat16())
    assert torch.equal(dict(model.named_parameters())[QKV], old)
    assert next(loaded.modules.parameters()).dtype == torch.bfloat16


def test_one_model_serves_dense_and_trained_methods_in_turn(saved):
    model, method, *_, folder = saved
    inputs = batch(model, ROWS)
    with torch.no_grad():
        plain = model(**inputs).logits
        loaded = load_checkpoint(folder, model, method)
        with loaded.applied(model), routed(model, method, loaded.modules):
            routed_logits = model(**inputs).logits
        assert torch.equal(model(**inputs).logits, plain)
    assert not torch.allclose(routed_logits, plain)


def test_users_parameters_win_over_the_checkpoints_and_those_over_defaults(saved):
    *_, folder = saved
    assert resolve_method(folder, parse("pmod")).spec == "pmod:beta=0.3"
    assert resolve_method(folder, parse("pmod:string=false")).spec == "pmod:beta=0.3:string=false"


def test_names_of_converted_files_are_understood(saved):
    model, method, _, _, head, folder = saved
    tensors = load_file(folder / SINGLE)
    tensors = {k: v for k, v in tensors.items() if k.startswith("router.")}
    tensors["language_model.lm_head.weight"] = head
    tensors["language_model.model.layers.1.self_attn.q_proj.weight"] = torch.zeros(16, 16)
    save_file(tensors, folder / SINGLE)
    assert sorted(load_checkpoint(folder, model, method).full) == sorted([HEAD, QKV])


def test_sharded_files_are_read(saved):
    model, method, *_, folder = saved
    tensors = load_file(folder / SINGLE)
    names = sorted(tensors)
    (folder / SINGLE).unlink()
    table = {}
    for i, part in enumerate((names[:2], names[2:])):
        save_file({n: tensors[n] for n in part}, folder / f"part-{i}.safetensors")
        table |= dict.fromkeys(part, f"part-{i}.safetensors")
    (folder / f"{SINGLE}.index.json").write_text(json.dumps({"weight_map": table}))
    assert sorted(load_checkpoint(folder, model, method).full) == [HEAD]


def rewrite(folder, change):
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE)


def edit_meta(folder, **values):
    meta = json.loads((folder / META).read_text())
    (folder / META).write_text(json.dumps(meta | values))


def truncate(folder):
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(data[: len(data) // 2])


BROKEN = {
    "no folder": (
        lambda f: [p.unlink() for p in f.iterdir()] and f.rmdir(),
        "no checkpoint folder",
    ),
    "no meta": (lambda f: (f / META).unlink(), "has no method.json"),
    "bad meta": (lambda f: (f / META).write_text("{"), "method.json cannot be read"),
    "empty meta": (lambda f: (f / META).write_text("{}"), "names no method"),
    "method": (lambda f: edit_meta(f, method="gamma"), "was trained for 'gamma', not 'pmod'"),
    "parameter": (lambda f: edit_meta(f, params={"bata": 1}), "unknown parameter 'bata'"),
    "depth": (
        lambda f: edit_meta(f, model={"layers": 32, "width": 16}),
        "trained on a model with 32 layers, this one has 5",
    ),
    "width": (
        lambda f: edit_meta(f, model={"layers": 5, "width": 4096}),
        "trained on a model of width 4096, this one has 16",
    ),
    "no weights": (lambda f: (f / SINGLE).unlink(), "no weights .model.safetensors or"),
    "truncated": (truncate, "model.safetensors: cut short or damaged"),
    "pickle": (lambda f: (f / SINGLE).write_bytes(b"\x80\x04K\x01."), "not a safetensors file"),
    "empty": (lambda f: (f / SINGLE).write_bytes(b""), "not a safetensors file"),
    "missing": (lambda f: rewrite(f, lambda t: t.pop("router.2.weight")), "lacks router.2.weight"),
    "extra": (
        lambda f: rewrite(f, lambda t: t.update({"router.9.weight": torch.zeros(1, 16)})),
        "has router.9.weight too many: weights of another depth",
    ),
    "shape": (
        lambda f: rewrite(f, lambda t: t.update({"router.2.weight": torch.zeros(1, 8)})),
        r"router.2.weight has shape \[1, 8\], this model of width 16 needs \[1, 16\]",
    ),
    "unknown": (
        lambda f: rewrite(f, lambda t: t.update({"model.nothing": torch.zeros(1)})),
        "model.nothing names no parameter of this model",
    ),
    "full shape": (
        lambda f: rewrite(f, lambda t: t.update({HEAD: torch.zeros(2, 2)})),
        r"lm_head.weight fits a weight of shape \[2, 2\], this model's has \[64, 16\]",
    ),
    "half a delta": (
        lambda f: rewrite(f, lambda t: t.pop(f"delta.{QKV}.A")),
        "has no partner",
    ),
    "delta ranks": (
        lambda f: rewrite(f, lambda t: t.update({f"delta.{QKV}.A": torch.zeros(3, 16)})),
        "ranks of .* differ",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_said_in_one_line(saved, case):
    model, method, *_, folder = saved
    spoil, message = BROKEN[case]
    spoil(folder)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(folder, model, method)
    assert "\n" not in str(error.value)


def test_other_dense_weights_and_untrained_methods(saved):
    model, method, *_, folder = saved
    with pytest.raises(CheckpointError, match="other dense weights"):
        load_checkpoint(folder, model, method, base="another")
    edit_meta(folder, method="fastv", params={})
    with pytest.raises(CheckpointError, match="has a router, which fastv does not"):
        load_checkpoint(folder, model, parse("fastv"))


def test_weights_of_dense_serve_every_training_free_method(tmp_path):
    model = tiny_llava(layers=5)
    a, b = low_rank(model, QKV)
    save_checkpoint(tmp_path, parse("dense"), None, model_info(model), {QKV: (a, b)})
    old = dict(model.named_parameters())[QKV].detach().clone()
    for spec in ("dense", "fastv:k=3:r=0.75", "blind"):
        loaded = load_checkpoint(tmp_path, model, parse(spec))
        assert loaded.method == parse(spec)
        assert loaded.modules is None
        with loaded.applied(model):
            assert torch.equal(dict(model.named_parameters())[QKV], old + b @ a)
    with pytest.raises(CheckpointError, match="trained for 'dense', not 'pmod'"):
        load_checkpoint(tmp_path, model, parse("pmod"))


def test_who_runs_on_which_weights(tmp_path, monkeypatch):
    """Training-free methods follow dense; METHOD=none turns shipped weights of a method off."""
    folders = {name: tmp_path / name for name in ("dense", "llavolta", "pmod")}

    def shipped(method, wish, source):
        return folders.get(method.name) if wish is None else tmp_path / wish

    monkeypatch.setattr(resolve, "checkpoint", shipped)
    named = [parse(s) for s in ("dense", "fastv", "llavolta", "pmod")]

    def found(**checkpoint):
        return find_checkpoints(Settings(checkpoint=checkpoint), named, FakeSource())

    assert found() == {**folders, "fastv": folders["dense"]}
    assert found(llavolta="none")["llavolta"] == folders["dense"]
    assert found(dense="other")["fastv"] == tmp_path / "other"
    assert "fastv" not in found(dense="none", llavolta="none")
    with pytest.raises(UsageError, match="pmod is a trained method"):
        found(pmod="none")
