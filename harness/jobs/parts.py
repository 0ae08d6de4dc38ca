"""What a run on benchmarks is made of: real things here, stand-ins in tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError
from harness.common.progress import Progressing
from harness.common.protocol import LMMS_EVAL
from harness.jobs.grid import Grid
from harness.jobs.resolve import runtime_of, use_threads
from harness.jobs.runner import Job
from harness.model.session import Session
from harness.options.runtime import Runtime
from harness.options.settings import Settings
from harness.store.cells import engine_digest


class Parts(Job):
    """`session`: a model that is loaded already, used instead of a name."""

    grid: Grid
    referees: Any = None

    def __init__(
        self, settings: Settings, argv: Sequence[str], session: Session | None = None
    ) -> None:
        super().__init__(settings, argv)
        self.session = session

    def source(self) -> Any:
        """The model's files, found and checked. Raises UsageError."""
        from harness.model.catalog import find_model

        return find_model(self.settings.model) if self.session is None else self.session.source

    def runtime(self, source: Any) -> Runtime:
        """Device, dtype and backend. Raises UsageError."""
        if self.session is None:
            return runtime_of(self.settings, source.mini, source.info.hidden)
        device = self.session.model.device.type
        threads = use_threads(self.settings, source.info.hidden) if device == "cpu" else None
        return Runtime(device, self.session.dtype, self.session.attn, threads)

    def bench(self, name: str, source: Any) -> Any:
        """A bench on concrete data. Raises UsageError."""
        from harness.bench.benches import resolve_bench

        asked = self.settings
        return resolve_bench(name, asked.data, mini_model=source.mini, allow=asked.allow)

    def asked(self, source: Any, benches: list[Any]) -> list[Any]:
        """The benches as the protocol asks them. Raises UsageError for what cannot be asked so."""
        protocol = self.settings.asking
        if protocol == LMMS_EVAL:
            return benches
        from harness.model.asking import check_protocol

        check_protocol(protocol, source.family, source.model_id)
        if self.settings.asks_ocr and not any(bench.takes_ocr for bench in benches):
            named = ", ".join(bench.name for bench in benches)
            raise UsageError(
                f"--ocr: no question of {named} can name OCR tokens: it is for textvqa (and "
                "lmms-eval tasks with the setting 'ocr')"
            )
        return [bench.with_ocr() for bench in benches] if protocol.ocr else benches

    def engine(self) -> str:
        """Hash of the code between a method's decision and a score."""
        return engine_digest()

    def load(self, show: Progressing) -> Any:
        """The one session of this run. Raises UsageError."""
        from harness.common.torchvision_ops import declare_missing_ops
        from harness.model.catalog import load_model

        if self.session is not None:
            return self.session
        asked = self.settings
        # What asks the questions: a third of a start, and cheapest while nothing is collected.
        declare_missing_ops()
        import harness.bench.upstream  # noqa: F401

        how = (asked.device, asked.dtype, asked.attn, show.say)
        return load_model(self.grid.source, *how, device_map=asked.device_map)

    def loaded(self, show: Progressing) -> Any:
        """That session, asked by the protocol of the settings. Raises UsageError."""
        session, protocol = self.load(show), self.settings.asking
        return session if protocol == LMMS_EVAL else session.asked_by(protocol)

    def counters(self) -> Any:
        """The counters of FLOPs on the model's parts, see `harness.cost.referees.Referees`."""
        from harness.cost.modules import decoder_like
        from harness.cost.referees import referees_for
        from harness.engine.model import find_parts

        assert self.session is not None
        found = find_parts(self.session.model)
        return referees_for(self.session.info, decoder_like(found.layers[0], found.config))

    def evaluate(self, session: Any, method: Any, bench: Any, **options: Any) -> Any:
        """One cell: see `harness.bench.loop.evaluate`."""
        from harness.bench.loop import evaluate

        return evaluate(session, method, bench, **options)

    def load_checked(self, used: dict[Any, Path | None], show: Progressing) -> dict[str, Any]:
        """Load the model, check the methods on it, and the counters of FLOPs.

        Returns what run.json says of it. Raises UsageError, and RefereeError where the counters
        disagree.
        """
        show.phase(f"loading {self.grid.source.model_id}", soon=True)
        self.session = self.loaded(show)
        show.phase("checking methods", soon=True)
        for method, checkpoint in used.items():
            self.session.check(method, checkpoint)
        show.phase("checking the counters of FLOPs", soon=True)
        self.referees = self.counters()
        return {
            "device_name": self.session.device_name,
            "referees": self.referees.described(),
            "image_processor": self.session.image_processor,
        }
