"""Under what conditions: model, data, how questions are put, device, and where results go.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from harness.common import conditions
from harness.common.protocol import ASPECTS, BOXES, TEMPLATES
from harness.options import validators
from harness.options.gpus import parse_gpu
from harness.options.option import (
    COSTS,
    MEASURING,
    ON_BENCHES,
    RUNS,
    WRITING,
    JobKind,
    Record,
    setting,
)
from harness.options.validators import natural, non_empty, one_of, positive

_asking = partial(setting, jobs=ON_BENCHES, record=Record.SET)
_free = partial(setting, jobs=~JobKind(0), record=Record.NEVER)


@dataclass(frozen=True)
class Conditions:
    """Model, data, questions, device; and where results go."""

    model: str = setting(
        "tiny-llava",
        validators.place,
        "MODEL",
        help="from --list models, a hub id or a local folder",
    )
    checkpoint: Mapping[str, str] = setting(
        {},
        validators.checkpoint,
        "METHOD=PATH_OR_ID",
        help="trained weights of a trained method on this model; repeatable",
        repeats=True,
    )
    data: str = setting(
        "auto",
        validators.data,
        "|".join([*validators.DATA, "DIR"]),
        help="auto: mini for the shipped model, else hub; or a folder with copies of the datasets",
        jobs=RUNS | JobKind.JUDGE,
    )
    limit: int | None = setting(
        None,
        positive,
        "N",
        help="only the first N documents of each bench",
        jobs=RUNS | JobKind.STUDY,
    )
    batch_size: int | str | None = setting(
        None,
        validators.batch_size,
        "N|auto",
        help=f"samples per batch, at most {validators.MAX_BATCH} (default auto for answers: 8, on "
        "CUDA 32; 1 for times and costs)",
        jobs=RUNS | JobKind.STUDY,
    )
    threads: int | str = setting(
        "auto",
        validators.threads,
        "N|auto",
        help="of the model on a CPU; auto: OMP_NUM_THREADS, else the cores, at most one for every "
        "128 of the hidden size; a resumed run keeps its number",
        jobs=ON_BENCHES | JobKind.THROUGHPUT,
        record=Record.USED,
    )
    protocol: str | None = _asking(
        None,
        validators.protocol,
        "NAME",
        help="how questions are put, from --list protocols (default lmms-eval); its parts by "
        "themselves follow",
    )
    image_aspect: str | None = _asking(
        None,
        one_of("image aspect", ASPECTS),
        "|".join(ASPECTS),
        help="make an image square by padding it with the mean colour, or by cutting out its "
        "centre (default: as the image processor does)",
    )
    template: str | None = _asking(
        None,
        one_of("template", TEMPLATES),
        "|".join(TEMPLATES),
        help="the conversation around a question (default: the checkpoint's own)",
    )
    ocr: bool = _asking(False, help="TextVQA's questions name the words that OCR read")
    boxes: str | None = _asking(
        None,
        one_of("reading of boxes", BOXES),
        "|".join(BOXES),
        help="RefCOCO's boxes are answered in shares of the image, in shares of the square that "
        "the model sees, or in pixels of the resized image (default: as the family is known to)",
    )
    device: str = setting(
        "auto", validators.device, "DEVICE", help="auto, cpu, cuda, cuda:N or mps"
    )
    device_map: str | None = setting(
        None,
        one_of("device map", conditions.DEVICE_MAPS),
        "|".join(conditions.DEVICE_MAPS),
        help="spread a model larger than a device over all of them, then the host, then disk, as "
        "transformers does",
        jobs=ON_BENCHES,
        record=Record.SET,
    )
    dtype: str = setting(
        "auto",
        one_of("dtype", conditions.DTYPES, conditions.DTYPE_ALIASES),
        "|".join(conditions.DTYPES),
        help="precision of the model",
    )
    attn: str = setting(
        "auto",
        one_of("attention backend", conditions.ATTENTION, conditions.ATTENTION_ALIASES),
        "|".join(conditions.ATTENTION),
        help="attention backend",
    )
    seed: int = setting(0, natural, "N", help="of all that is drawn")
    sample: bool = setting(
        False,
        help="draw answers where a task asks for sampling, each document from a seed of its own; "
        "without it such tasks are answered greedily",
        jobs=ON_BENCHES,
        record=Record.SET,
    )
    allow: tuple[str, ...] = setting(
        (),
        validators.allowed,
        "LIST",
        help="over-length: answer and count samples longer than the model's context instead of "
        "failing the cell; bad-rows: leave out and count rows of own data that cannot be asked or "
        "scored",
        jobs=ON_BENCHES | JobKind.THROUGHPUT,
        record=Record.SET,
    )
    margin: float | None = setting(  # None: the run directory's, else 1 point
        None,
        validators.points,
        "POINTS",
        help="loss up to which a method is non-inferior to dense (default 1); another one on a "
        "finished run derives its tables again",
        jobs=ON_BENCHES,
        record=Record.NEVER,
    )
    against: tuple[str, ...] = setting(
        (),
        validators.comma_list,
        "LIST",
        help="rows that the first table's differences are to (default dense): names or labels",
        jobs=ON_BENCHES | JobKind.PLOTS_ONLY | JobKind.DERIVE | JobKind.DIFF | JobKind.JUDGE,
        record=Record.NEVER,  # beside the settings, for the next drawing
    )
    n_text: int = setting(
        58,
        positive,
        "N",
        help="text tokens of a cost or time",
        jobs=JobKind.COSTS_ONLY | JobKind.THROUGHPUT,
        record=Record.USED,
    )
    n_out: int = setting(
        32,
        positive,
        "N",
        help="new tokens of a cost or time",
        jobs=JobKind.COSTS_ONLY | MEASURING,
        record=Record.USED,
    )
    gpu: str | None = setting(
        None,
        parse_gpu,
        "NAME|24GiB",
        help="with --costs-only: the largest batch that fits this GPU, and bounds of its times; "
        "with --concurrency: the requests that fit",
        jobs=JobKind.COSTS_ONLY | JobKind.THROUGHPUT,
        record=Record.SET,
    )
    judge_url: str | None = _free(
        None,
        validators.endpoint,
        "URL",
        help="OpenAI-compatible endpoint of the language model that scores free answers, like "
        "http://127.0.0.1:8000/v1; its key in OPENAI_API_KEY",
        jobs=ON_BENCHES | JobKind.JUDGE,
        needs="judge_model",
        in_suites=False,
    )
    judge_model: str | None = _free(
        None,
        non_empty,
        "NAME",
        help="the judge's name there",
        jobs=ON_BENCHES | JobKind.JUDGE,
        needs="judge_url",
        in_suites=False,
    )
    rank_timeout: float | None = _free(
        None,
        validators.patience,
        "S",
        help="under torchrun: a process without progress for so long ends the run (default 600, or "
        "20 times the slowest batch)",
        jobs=ON_BENCHES,
    )
    out: str | None = _free(
        None,
        validators.target,
        "DIR",
        help="run directory, resumed if it exists (default runs/<time>)",
        jobs=WRITING,
    )
    table: str | None = _free(
        None,
        one_of("form", ("md",)),
        "md",
        help="print the final table as Markdown on standard output, and nothing else there",
        jobs=ON_BENCHES | JobKind.DERIVE | JobKind.JUDGE | JobKind.PLOTS_ONLY | COSTS,
    )
    quiet: bool = _free(False, help="no progress, errors only")
    verbose: bool = _free(False, help="more detail, library messages")
