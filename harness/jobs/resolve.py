"""Names to things: methods, the runtime, weights of methods. Nothing is loaded or written.

Everything heavy is imported when first needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.errors import UsageError, one_line
from harness.common.nearest import unknown
from harness.common.processor import lacks
from harness.common.roots import DATA
from harness.common.threads import choose, cores, in_use
from harness.options.runtime import DENSE, Runtime
from harness.options.settings import Settings
from harness.options.specs import check_known_methods
from harness.readouts.reference import published_models
from harness.store.folder import is_run, read_run_json

if TYPE_CHECKING:
    from harness.families.shapes import ModelShape

NO_WEIGHTS = "none"  # as in --checkpoint llavolta=none


def named_methods(specs: Sequence[str]) -> list[Any]:
    """Methods from `name:key=value` texts. Raises UsageError."""
    check_known_methods(specs, "--methods")
    import methods
    from methods.base import MethodError

    try:
        return list(methods.parse_list(",".join(specs)))
    except MethodError as error:
        raise UsageError(f"--methods: {one_line(error)}") from None


def runtime_of(settings: Settings, mini: bool, hidden: int) -> Runtime:
    """Device, dtype, backend and threads that `auto` means here. Raises UsageError.

    ``hidden``: the decoder's hidden size.
    """
    from harness.model.loading import pick_attention, pick_device, pick_dtype

    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device, mini=mini)
    attn = pick_attention(settings.attn, device, dtype)
    threads = use_threads(settings, hidden) if device.type == "cpu" else None
    return Runtime(device.type, str(dtype).removeprefix("torch."), attn, threads)


def use_threads(settings: Settings, hidden: int) -> int | None:
    """Set torch's threads: as asked, else as the run directory has them, else by the rule.

    Returns what the run directory is to hold: None for an older one, which holds nothing of it.
    Raises UsageError for more than there are cores.
    """
    import torch

    out, asked = Path(settings.out or ""), settings.threads
    known = _table(read_run_json(out).get("settings")) if settings.out and is_run(out) else {}
    before = known.get("threads")
    if isinstance(asked, int):
        number = asked
        if number > max(cores(), before or 0):
            raise UsageError(f"--threads: {number} asked for, this process may use {cores()} cores")
    else:
        number = int(before or choose(hidden, settings.jobs))
    torch.set_num_threads(number)
    return None if known and before is None and asked == "auto" else number


def on_cpu(runtime: Runtime) -> dict[str, Any]:
    """What `run.json` says of the processor that a run's model is on; empty elsewhere."""
    if runtime.device != "cpu":
        return {}
    slow = lacks(runtime.dtype)
    return {"threads": in_use(), **({"notes": [slow]} if slow else {})}


def check_methods(methods: Sequence[Any], shape: ModelShape) -> None:
    """Refuse methods and parameters that do not fit the model, before its weights are loaded."""
    from harness.families.catalog import info_of
    from methods.base import MethodError

    try:
        for method in methods:
            method.fits(info_of(shape))
    except MethodError as error:
        raise UsageError(f"--methods: {one_line(error)}") from None


def with_dense(methods: list[Any]) -> list[Any]:
    """The methods with dense in front, added where it was not asked for."""
    dense = [method for method in methods if method.name == DENSE]
    others = [method for method in methods if method.name != DENSE]
    return [*(dense or named_methods((DENSE,))), *others]


def find_checkpoints(settings: Settings, methods: list[Any], source: Any) -> dict[str, Path]:
    """Method name -> folder of the weights it runs with, where these are not just the model's.

    A training-free method without weights of its own works on dense's, so that both had the same
    training; `METHOD=none` asks for that where weights of it ship. A run that repeats a published
    table takes the weights that were given out for it. Raises UsageError for a trained method
    without weights, and for weights nobody asked for.
    """
    named = {method.name: method for method in methods}
    for name in settings.checkpoint:
        if name not in named:
            hint = "it is not among --methods"
            raise UsageError("--checkpoint: " + unknown("method", name, named, hint))
    found: dict[str, Path] = {}
    for name, method in named.items():  # dense comes first
        wish = settings.checkpoint.get(name)
        if wish is None and settings.printed and method.trained:
            wish = published_models().weights(source.model_id, name) or None
        path = None if wish == NO_WEIGHTS else checkpoint(method, wish, source)
        if path is None and method.trained:
            raise UsageError(
                f"{name} is a trained method and there are no weights of it for "
                f"{source.model_id}: pass --checkpoint {name}=PATH_OR_ID"
            )
        if path is None and method.reads_clip:
            raise UsageError(
                f"--methods: {method.spec} needs the CLIP model of the vision tower: "
                f"pass --checkpoint {name}=PATH_OR_ID, or use relevance=words"
            )
        path = path or found.get(DENSE)
        if path is not None:
            found[name] = path
    return found


def with_trained_parameters(methods: list[Any], checkpoints: Mapping[str, Path]) -> list[Any]:
    """The methods with the parameters their weights were trained with, where the user set none.

    Raises UsageError when two entries turn out to be the same then.
    """
    found: list[Any] = []
    for method in methods:
        path = checkpoints.get(method.name)
        full = method if path is None else trained_method(path, method)
        if full in found:
            raise UsageError(
                f"--methods: '{method.spec}' is given twice: its weights were trained with "
                f"'{full.spec}'"
            )
        found.append(full)
    return found


def checkpoint(method: Any, wish: str | None, source: Any) -> Path | None:
    """Folder of a trained method's weights: the one asked for, else the shipped one."""
    if wish is None:
        return shipped_checkpoint(method.name, source.model_id)
    from harness.model.convert.use import as_checkpoint

    path = Path(wish).expanduser()
    return as_checkpoint(path if path.is_dir() else _from_hub(wish), method.name)


def shipped_checkpoint(method_name: str, model_name: str) -> Path | None:
    """The tuned weights that ship for this method and model, if there are any."""
    if "/" in model_name:  # a folder of the user's: what lies beside it was not asked for
        return None
    path = DATA / "assets" / f"{model_name}-{method_name}"
    return path if path.is_dir() else None


def trained_method(path: Path, method: Any) -> Any:
    """The method with the parameters of its weights in `path`. Raises UsageError."""
    from harness.model.checkpoints import CheckpointError, resolve_method

    try:
        return resolve_method(path, method)
    except CheckpointError as error:
        raise UsageError(f"--checkpoint: {one_line(error)}") from None


def checkpoint_hashes(path: Path) -> dict[str, str]:
    """Path below the folder -> sha256 of what is read of a checkpoint. Raises UsageError."""
    from harness.model.checkpoints import META
    from harness.model.clip import clip_hashes, is_clip
    from harness.model.weights import check_weights, file_hash, weight_hashes

    if is_clip(path) and not (path / META).exists():
        return clip_hashes(path)
    check_weights(path)
    described = {META: file_hash(path / META)} if (path / META).exists() else {}
    return {**weight_hashes(path), **described}


def _from_hub(name: str) -> Path:
    """Folder of a hub repository with a method's weights, from the local cache or fetched now."""
    from harness.model.catalog import HUB_ID

    missing = f"--checkpoint: there is no folder '{name}'"
    if not HUB_ID.fullmatch(name):
        raise UsageError(missing)
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(str(snapshot_download(name, local_files_only=True)))
    except LocalEntryNotFoundError:
        pass
    try:
        HfApi().model_info(name, timeout=10)  # fails at once where a download would keep trying
        others = ["*.h5", "*.msgpack"]  # other frameworks' copies of the same weights
        return Path(str(snapshot_download(name, ignore_patterns=others)))
    except Exception as error:  # whatever the hub's HTTP library raises
        why = one_line(error, 120)
        raise UsageError(f"{missing}, nor could it be fetched from the hub ({why})") from None


def require_same_files(out: Path, source: Any, checkpoints: Mapping[str, Any]) -> None:
    """Refuse to go on with a run whose model or checkpoints have changed on disk since.

    ``checkpoints``: method name -> hashes of its files. What an older run.json does not say is not
    compared. Raises UsageError naming the first file.
    """
    about = read_run_json(out)
    model = ("weight_hashes", source.weight_hashes), ("model_files", source.setting_hashes)
    pairs = [(source.model_id, about.get(name), files) for name, files in model]
    for name, said in _table(about.get("checkpoints")).items():
        files = checkpoints.get(name) or {}
        pairs.append((f"the weights of {name}", _table(said).get("files"), files))
    for whose, before, now in pairs:
        known = _table(before)
        for file in [*known, *now] if known else []:
            if known.get(file) != now.get(file):
                raise UsageError(
                    f"--out: {file} of {whose} changed since '{out}' was made: choose another --out"
                )


def _table(value: Any) -> dict[str, Any]:
    """What a run.json holds as an object; empty where it does not."""
    return value if isinstance(value, dict) else {}
