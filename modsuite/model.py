"""A model to ask, with or without a method under it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modsuite.errors import Error, spoken

if TYPE_CHECKING:
    from harness.model.session import Session
    from harness.store.record import RoutingRecord
    from methods.base import Method

MAX_NEW_TOKENS = 32


class Model:
    """A loaded model; `ask` answers as dense, or under the method of the open `routed` context.

    `session` is the harness's own view (model, processor, weights of methods), for those who need
    more than is offered here; `hf` and `processor` are the plain transformers objects.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._open: list[Routed] = []

    @property
    def name(self) -> str:
        """As `load` was given it, or as transformers calls a model of one's own."""
        return str(self.session.model_id)

    @property
    def hf(self) -> Any:
        return self.session.model

    @property
    def processor(self) -> Any:
        return self.session.processor

    def ask(self, image: Any, question: str, max_new_tokens: int = MAX_NEW_TOKENS) -> str:
        """The greedy answer to a question about one image, several (a list) or none (None).

        `image`: PIL image or path. In the processor's own chat template, as the benchmarks ask.
        """
        if self._open:
            return self._open[-1].ask(image, question, max_new_tokens)
        with routed(self, "dense") as run:
            return run.ask(image, question, max_new_tokens)

    def __repr__(self) -> str:
        under = f" under {self._open[-1].method.spec}" if self._open else ""
        return (
            f"<modsuite model {self.name}{under}, {self.session.dtype}, {self.session.device_name}>"
        )


class Routed:
    """One method on one model while its context is open; knows the record of the last answer."""

    def __init__(self, method: Method, generator: Any, session: Session) -> None:
        self.method, self._generator, self._session = method, generator, session
        self._output: Any = None

    def ask(self, image: Any, question: str, max_new_tokens: int = MAX_NEW_TOKENS) -> str:
        """See `Model.ask`."""
        from harness.bench.request import GenerationKwargs, Request

        images = _images(image)
        name = hashlib.sha256(question.encode()).hexdigest()[:16]  # seeds methods that draw
        how = GenerationKwargs(max_new_tokens)
        with spoken():
            request = Request(0, "ask", name, question, how, lambda: images)
            self._output = self._generator.answer([request])[0]
        return str(self._output.text)

    @property
    def record(self) -> RoutingRecord:
        """What every layer did with every token of the last answer (`harness.store.record`)."""
        if self._output is None:
            raise Error("nothing was asked yet: call ask first")
        return self._output.record

    @property
    def cost(self) -> dict[str, Any]:
        """FLOPs (in tera, 2 a multiply-accumulate) and KV cache of the last answer.

        The columns of `samples/*.csv` by name; see the ledger's definitions in the docs.
        """
        from harness.cost.readouts import read_out

        session = self._session
        size = session.model.dtype.itemsize
        found = read_out(self.record, session.info, size, self.method.needs_images)
        return {key: value for key, value in found.items() if not isinstance(value, (dict, list))}


def load(
    model: str = "tiny-llava", device: str = "auto", dtype: str = "auto", attn: str = "auto"
) -> Model:
    """The model the command line would use under this name, weights of `dense` included.

    `model`: a name of `--list models`, a model-hub id or a local folder. Raises Error.
    """
    with spoken():
        from harness.model.catalog import load_model

        return Model(load_model(model, device, dtype, attn))


def wrap(model: Any, processor: Any) -> Model:
    """A transformers model of one's own, already loaded, and its processor. Raises Error."""
    from modsuite.wrapped import session_around

    if processor is None:
        raise Error("routed: a plain transformers model needs processor=, to be asked")
    with spoken():
        return Model(session_around(model, processor))


@contextmanager
def routed(
    model: Any, spec: Any, processor: Any = None, checkpoint: str | Path | None = None
) -> Iterator[Routed]:
    """`model` under a method while the context is open; nothing stays on the model.

    `model`: what `load` gave, or a transformers model with its `processor`. `spec`: the command
    line's `name:key=value`, a method's file, or a method object. `checkpoint`: folder or hub id of
    a trained method's weights; the shipped ones are found by themselves. Raises Error.
    """
    mine = model if isinstance(model, Model) else wrap(model, processor)
    session = mine.session
    with ExitStack() as stack:
        with spoken():
            from harness.bench.generation import Generator

            method, path = resolved(session, spec, checkpoint)
            run, sharing = stack.enter_context(session.under(method, path))
            routed_run = Routed(run.method, Generator(session, run, sharing, method.label), session)
        mine._open.append(routed_run)
        try:
            yield routed_run
        finally:
            mine._open.remove(routed_run)


def resolved(
    session: Session, spec: str | Method, checkpoint: str | Path | None
) -> tuple[Method, Path | None]:
    """The method as its weights want it, and their folder: what the command line would run."""
    from harness.jobs.resolve import (
        NO_WEIGHTS,
        find_checkpoints,
        with_dense,
        with_trained_parameters,
    )
    from harness.options.settings import Settings
    from modsuite.listing import parse
    from modsuite.wrapped import InMemory

    method = parse(spec) if isinstance(spec, str) else spec
    methods = with_dense([method])
    wishes = {}
    if isinstance(session.source, InMemory):  # nothing ships for a model that only looks alike
        wishes = {one.name: NO_WEIGHTS for one in methods}
    if checkpoint is not None:
        wishes[method.name] = str(checkpoint)
    found = find_checkpoints(Settings(checkpoint=wishes), methods, session.source)
    method = with_trained_parameters(methods, found)[-1]
    path = found.get(method.name)
    session.check(method, path)
    return method, path


def _images(image: Any) -> list[Any]:
    """PIL images of what `ask` takes. Raises Error."""
    from PIL import Image, UnidentifiedImageError

    if image is None:
        return []
    found = []
    for one in image if isinstance(image, Sequence) and not isinstance(image, str) else [image]:
        if isinstance(one, (str, Path)):
            try:
                with Image.open(one) as file:
                    found.append(file.convert("RGB"))
            except (OSError, UnidentifiedImageError) as error:
                raise Error(f"image: '{one}' cannot be read ({error})") from None
        elif isinstance(one, Image.Image):
            found.append(one)
        else:
            raise Error(f"image: a PIL image or a path expected, not {type(one).__name__}")
    return found
