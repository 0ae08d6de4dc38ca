"""What a run is made of: methods, models, benches, the loop, the report.

One small class, so that the orchestration (`harness.jobs.suite`) can be tested with other parts.
Everything heavy is imported when first needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.command.listing import check_known_methods
from harness.common.errors import UsageError, one_line
from harness.options.settings import Settings
from harness.store.cells import engine_digest


@dataclass(frozen=True)
class Runtime:
    """The resolved wishes: device type (cpu, cuda, mps), dtype and attention backend."""

    device: str
    dtype: str
    attn: str


class Parts:
    """The real parts."""

    def methods(self, specs: Sequence[str]) -> list[Any]:
        """Methods from `name:key=value` texts. Raises UsageError."""
        check_known_methods(specs, "--methods")
        import methods
        from methods.base import MethodError

        try:
            return list(methods.parse_list(",".join(specs)))
        except MethodError as error:
            raise UsageError(f"--methods: {one_line(error)}") from None

    def engine_source(self) -> str:
        """Hash of the code between a method's decision and a score."""
        return engine_digest()

    def source(self, name: str) -> Any:
        """The model's files, found and checked. Raises UsageError."""
        from harness.model.catalog import find_model

        return find_model(name)

    def runtime(self, settings: Settings, source: Any) -> Runtime:
        """Device, dtype and backend that `auto` means here. Raises UsageError."""
        from harness.model.loading import pick_attention, pick_device, pick_dtype

        device = pick_device(settings.device)
        dtype = pick_dtype(settings.dtype, device, mini=source.mini)
        attn = pick_attention(settings.attn, device, dtype)
        return Runtime(device.type, str(dtype).removeprefix("torch."), attn)

    def bench(self, name: str, data: str, source: Any) -> Any:
        """A bench on concrete data. Raises UsageError."""
        from harness.bench.benches import resolve_bench

        return resolve_bench(name, data, mini_model=source.mini)

    def checkpoint(self, method: Any, wish: str | None, source: Any) -> Path | None:
        """Folder of a trained method's weights: the one asked for, else the shipped one."""
        from harness.jobs.plan import shipped_checkpoint

        if wish is None:
            return shipped_checkpoint(method.name, source.model_id)
        path = Path(wish).expanduser()
        return path if path.is_dir() else _from_hub(wish)

    def trained_method(self, path: Path, method: Any) -> Any:
        """The method with the parameters of its weights in `path`. Raises UsageError."""
        from harness.model.checkpoints import CheckpointError, resolve_method

        try:
            return resolve_method(path, method)
        except CheckpointError as error:
            raise UsageError(f"--checkpoint: {one_line(error)}") from None

    def checkpoint_hashes(self, path: Path) -> dict[str, str]:
        """Path below the folder -> sha256 of what is read of a checkpoint. Raises UsageError."""
        from harness.model.checkpoints import META
        from harness.model.clip import clip_hashes, is_clip
        from harness.model.weights import check_weights, file_hash, weight_hashes

        if is_clip(path) and not (path / META).exists():
            return clip_hashes(path)
        check_weights(path)
        described = {META: file_hash(path / META)} if (path / META).exists() else {}
        return {**weight_hashes(path), **described}

    def load(self, settings: Settings, source: Any, say: Callable[[str], None]) -> Any:
        """The loaded model. Raises UsageError."""
        from harness.model.catalog import load_model

        return load_model(source, settings.device, settings.dtype, settings.attn, say)

    def check(self, loaded: Any, method: Any, checkpoint: Path | None) -> None:
        """Do parameters and weights fit the loaded model? Raises UsageError."""
        from harness.engine.model import check_method, find_parts
        from harness.model.checkpoints import CheckpointError
        from methods.base import MethodError

        try:
            check_method(find_parts(loaded.model), method)
            if checkpoint is not None:
                loaded.weights(checkpoint, method)
        except MethodError as error:
            raise UsageError(f"--methods: {one_line(error)}") from None
        except CheckpointError as error:
            raise UsageError(f"--checkpoint: {one_line(error)}") from None

    def referees(self, loaded: Any) -> Any:
        """The counters of FLOPs on this model's parts, see `harness.cost.referees.Referees`."""
        from harness.cost.modules import decoder_like
        from harness.cost.referees import Referees
        from harness.engine.model import find_parts

        found = find_parts(loaded.model)
        decoder = decoder_like(found.layers[0], found.config)
        return Referees(loaded.info, decoder)

    def evaluate(self, loaded: Any, method: Any, bench: Any, **options: Any) -> Any:
        """One cell: see `harness.bench.loop.evaluate`."""
        from harness.bench.loop import evaluate

        return evaluate(loaded, method, bench, **options)

    def analyses_left(self, plan: Any, run_dir: Path) -> bool:
        """Whether `--analyse` asks for something that the run directory does not have yet."""
        from harness.layers.run import missing

        return bool(plan.settings.analyse) and bool(missing(plan, run_dir))

    def analyse(self, plan: Any, run_dir: Path, loaded: Any, say: Callable[[str], None]) -> None:
        """The missing analyses: see `harness.layers.run`. Raises CellError."""
        from harness.layers.run import analyse

        analyse(plan, run_dir, loaded, self.evaluate, say)

    def report(self, run_dir: Path) -> Path:
        """Tables, figures and report of a run directory."""
        from reports.build import build_report

        return Path(build_report(run_dir))


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
