"""`--estimate`: memory and hours of a recipe by arithmetic, without weights and without torch.

Nothing here was measured. Parameters and FLOPs are closed forms that the tests check; what is
assumed (MFU, text tokens, reserve, what a device can do at best) is printed with the result.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

import methods
from harness.common.console import Console
from harness.common.errors import UsageError, one_line
from harness.common.jsonfile import parse_json, read_json
from harness.common.progress import print_whole
from harness.common.yamlfile import read_mapping
from harness.families.catalog import info_of
from harness.families.shapes import ModelShape
from harness.train.asked import check_epochs, refuse, whole_model
from harness.train.memory import (
    GIB,
    MODES,
    RESERVE,
    largest_batch,
    peak_sample_bytes,
    states,
)
from harness.train.recipe import InstructRecipe
from harness.train.sizes import parameters, recipe_shape, trained_parts
from harness.train.work import image_of, sample_work, scheduled_work
from methods.base import Method, MethodError

# Samples of the data sets the recipes name, where the file itself is not here.
SAMPLES = {
    "blip_laion_cc_sbu_558k": 558_000,  # nominal
    "llava_v1_5_mix665k": 665_298,
    "llava_next_779k": 779_289,
}
# Text tokens of a sample, template and answers included: assumptions, no data set was counted.
TEXT = {"plain": (15, 30, 60), "vicuna_v1": (100, 200, 400), "model": (100, 200, 400)}
# Flags of the trainer that change an estimate too, and those that change none of its figures.
OVERRIDES = (
    *("method", "max_steps", "epochs", "batch", "accumulation", "deepspeed", "fsdp"),
    *("data", "model", "decoder", "vision"),
)
UNUSED = ("images", "projector", "learning_rate", "workers", "seed", "out", "start")
WRITTEN_FOR = 8  # devices of every recipe's comment


@dataclass(frozen=True)
class Device:
    """What trains: devices, GiB and bf16 TFLOP/s of each, and the share of it that is reached."""

    gpus: int = 8
    memory: float = 80.0
    peak: float = 312.0
    mfu: float = 0.4

    def __post_init__(self) -> None:
        good = self.gpus >= 1 and self.memory > 0 and self.peak > 0 and 0 < self.mfu <= 1
        if not good:
            raise UsageError(
                "--gpus, --gpu-memory and --peak must be positive, --mfu between 0 and 1"
            )

    def hours(self, flops: float) -> float:
        """Hours of all devices together for so many FLOPs."""
        return flops / (self.gpus * self.peak * 1e12 * self.mfu) / 3600


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `--estimate`."""
    add, usual = parser.add_argument, Device()
    add("--estimate", action="store_true", help="memory and hours by arithmetic, trains nothing")
    add("--gpus", type=int, default=usual.gpus, help="devices (default 8)")
    add("--gpu-memory", type=float, default=usual.memory, help="GiB a device (default 80)")
    add("--peak", type=float, default=usual.peak, help="bf16 TFLOP/s a device (312: A100)")
    add("--mfu", type=float, default=usual.mfu, help="share of --peak that is reached (0.4)")


def main(args: argparse.Namespace) -> int:
    """Print the estimate of `args.recipe`. Raises UsageError, one line."""
    if args.recipe is None:
        raise UsageError("--estimate needs --recipe FILE")
    device = Device(args.gpus, args.gpu_memory, args.peak, args.mfu)
    given = {name: getattr(args, name) for name in OVERRIDES} | whole_model(args)
    recipe = load_recipe(args.recipe, **given | {"data": args.data and str(args.data)})
    refuse(args, "--estimate", (*UNUSED, "all", "ship", "jobs"))
    check_epochs(args, [recipe.max_steps])
    show(recipe, device, Console())
    return 0


def load_recipe(path: Path, **changes: Any) -> InstructRecipe:
    """The instruct recipe in `path`; `changes` that are not None override it.

    A new method replaces the recipe's stages. Raises UsageError.
    """
    values = read_mapping(path, f"recipe {path}")
    if values.get("stage") != "instruct":
        raise UsageError(f"recipe {path}: --estimate is for recipes with stage: instruct")
    if changes.get("method"):
        values["stages"] = []
    return InstructRecipe.load(path, values, **changes)


def schedule_of(recipe: InstructRecipe, shape: ModelShape) -> list[Method]:
    """The method of each equal part of the training, checked against the model."""
    try:
        found = [methods.parse(spec) for spec in recipe.stages or (recipe.method,)]
        for method in found:
            method.fits(info_of(shape))
    except MethodError as error:
        raise UsageError(one_line(error)) from None
    return found


def sample_count(recipe: InstructRecipe) -> tuple[int, str]:
    """Samples of the recipe's data, and where the number is from. Raises UsageError."""
    path = Path(recipe.data).expanduser()
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
            lines = text.split("\n") if path.suffix == ".jsonl" else None
            entries = parse_json(text) if lines is None else [li for li in lines if li.strip()]
        except (OSError, ValueError) as error:
            raise UsageError(f"data: {path}: cannot be read ({one_line(error, 120)})") from None
        if not isinstance(entries, list):
            raise UsageError(f"data: {path}: neither JSON lines (NAME.jsonl) nor a JSON array")
        return len(entries), f"counted in {path}"
    if path.stem not in SAMPLES:
        raise UsageError(f"data: '{recipe.data}' is not here and not a known set: {list(SAMPLES)}")
    return SAMPLES[path.stem], f"size of {path.stem}; the file is not here"


def steps_of(recipe: InstructRecipe, samples: int, devices: int) -> int:
    """Optimiser steps of the whole training on so many devices."""
    if recipe.max_steps > 0:
        return recipe.max_steps
    return math.ceil(samples * recipe.epochs / (recipe.batch * recipe.accumulation * devices))


def show(recipe: InstructRecipe, device: Device, console: Console) -> None:
    """Print the three tables and the assumptions."""
    shape = recipe_shape(recipe)
    schedule = schedule_of(recipe, shape)
    samples, source = sample_count(recipe)
    steps = steps_of(recipe, samples, device.gpus)
    if recipe.max_steps > 0:
        samples = steps * recipe.batch * recipe.accumulation * device.gpus
    labels = " > ".join(method.label for method in schedule)
    whole = recipe.batch * recipe.accumulation * device.gpus
    written = recipe.batch * recipe.accumulation * WRITTEN_FOR
    line = f"{shape.name}, {labels}: {samples:,} samples ({source}), global batch {whole}, "
    _say(console, line + f"{steps:,} steps on {device.gpus} devices")
    if whole != written:
        need = max(1, round(written / (recipe.batch * device.gpus)))
        _say(
            console,
            f"The recipe's {written} are for {WRITTEN_FOR} devices: here accumulation {need}",
        )
    # A staged run saves its `method`, which has the most modules there can be.
    found = parameters(shape, methods.parse(recipe.method))
    print_whole(console, parts_table(recipe, found))
    print_whole(console, memory_table(recipe, found, schedule, shape, device))
    print_whole(console, work_table(recipe, schedule, shape, samples, device))
    for text in assumptions(recipe, shape, device):
        _say(console, f"- {text}")


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def _table(title: str, first: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def parts_table(recipe: InstructRecipe, found: dict[str, int]) -> Table:
    """Parameters by part."""
    learn = trained_parts(recipe)
    table = _table("Parameters", "part", ("count", "learns"))
    for part, count in found.items():
        if count:
            table.add_row(part, f"{count:,}", "yes" if part in learn else "no")
    table.add_row("together", f"{sum(found.values()):,}", "")
    return table


def split(recipe: InstructRecipe, found: dict[str, int]) -> tuple[int, int]:
    """Trained and frozen parameters."""
    trained = sum(count for part, count in found.items() if part in trained_parts(recipe))
    return trained, sum(found.values()) - trained


def memory_table(
    recipe: InstructRecipe,
    found: dict[str, int],
    schedule: Sequence[Method],
    shape: ModelShape,
    device: Device,
) -> Table:
    """GiB on one device by how the states are divided; `>` marks what the recipe asks for."""
    sample = peak_sample_bytes(recipe, schedule, shape)
    trained, frozen = split(recipe, found)
    title = f"GiB on each of {device.gpus} devices, batch {recipe.batch} of {recipe.max_length}"
    columns = ("weights", "grads", "AdamW", "acts", "total", "fits", "batch max")
    table = _table(f"{title} tokens", "states", columns)
    asked = asked_mode(recipe)
    for mode, label in MODES.items():
        held = states(trained, frozen, mode, device.gpus)
        total = held.device + recipe.batch * sample + RESERVE
        best = largest_batch(device.memory * GIB, held.device, sample)
        cells = (held.weights + held.gathered, held.gradients, held.optimiser)
        table.add_row(
            f"{'>' if mode == asked else ' '} {label}",
            *(f"{value / GIB:.1f}" for value in (*cells, recipe.batch * sample, total)),
            "yes" if total <= device.memory * GIB else "NO",
            str(best) if best else "none",
        )
    return table


def asked_mode(recipe: InstructRecipe) -> str:
    """The recipe's own way of dividing the states."""
    if "full_shard" in recipe.fsdp:
        return "zero3"
    if "shard_grad_op" in recipe.fsdp:
        return "zero2"
    try:
        config = read_json(Path(recipe.deepspeed))
        return f"zero{config['zero_optimization']['stage']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "ddp"


def work_table(
    recipe: InstructRecipe,
    schedule: Sequence[Method],
    shape: ModelShape,
    samples: int,
    device: Device,
) -> Table:
    """FLOPs and hours at three text lengths, and the ratio to dense."""
    lengths = TEXT[recipe.template]
    dense = methods.build(methods.REFERENCE)
    columns = [f"{n} text" + (" (assumed)" if i == 1 else "") for i, n in enumerate(lengths)]
    table = _table(f"Work, {image_of(shape).tokens} image tokens a sample", "", columns)
    for scope in ("decoder", "head", "tower", "projector"):
        mean = [
            sum(sample_work(recipe, m, shape, n).forward[scope] for m in schedule) / len(schedule)
            for n in lengths
        ]
        table.add_row(f"forward TFLOP, {scope}", *(f"{value / 1e12:.3f}" for value in mean))
    training = [scheduled_work(recipe, schedule, shape, n) for n in lengths]
    plain = [scheduled_work(recipe, [dense], shape, n) for n in lengths]
    table.add_row("training TFLOP a sample", *(f"{value / 1e12:.1f}" for value in training))
    table.add_row("training EFLOP in all", *(f"{v * samples / 1e18:.2f}" for v in training))
    hours = [device.hours(value * samples) for value in training]
    table.add_row(f"hours at MFU {device.mfu:g}", *(f"{value:.1f}" for value in hours))
    table.add_row("device hours", *(f"{value * device.gpus:.0f}" for value in hours))
    ratios = [ours / theirs for ours, theirs in zip(training, plain, strict=True)]
    table.add_row("of dense training", *(f"{value:.1%}" for value in ratios))
    return table


def assumptions(recipe: InstructRecipe, shape: ModelShape, device: Device) -> list[str]:
    """What the figures rest on, beside arithmetic."""
    again = "recomputation counted" if recipe.checkpointing else "nothing is recomputed"
    found = [
        f"MFU {device.mfu:g} of {device.peak:g} TFLOP/s is an assumption, not a measurement; "
        f"{again}. AdamW, data loading, saving and waiting for other devices come out of it too",
        "every sample has one image and as much text as the column says; no data set was counted",
        "memory: weights and gradients bf16, AdamW with fp32 master weights 12 bytes a parameter; "
        f"every sample of the batch at max_length; {RESERVE / GIB:.0f} GiB reserve for "
        "context, buffers and fragmentation is an assumption",
        "the ratio to dense is of FLOPs: selecting, gathering and scattering cost time, not FLOPs",
    ]
    trained, _ = split(recipe, parameters(shape, methods.parse(recipe.method)))
    found.append(f"AdamW on host: {12 * trained / device.gpus / GIB:.0f} GiB of the host's memory "
                 "a device, and slower steps that the hours do not contain")  # fmt: skip
    if shape.tiles:
        found.append("any resolution: a square image, the most tokens there are; others have less")
    if recipe.plan:
        found.append("layers planned by ARank: counted with the layers of the method as written")
    if shape.slow is not None:
        found.append("the second tower's activations are not in the memory")
    return found
