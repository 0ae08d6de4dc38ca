"""The documents of a cell and what it has of each, as arrays: ten thousand are nothing special.

Cells on the same documents share one object (`Library`), so pairing two of them is no look-up a
document. What is not an array yet, a plain mapping from document to value, works as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from harness.statistics.stats import Floats, Groups, cluster_ids


class Documents:
    """Names of documents in their order, and the image of each, "" without any."""

    def __init__(self, ids: tuple[str, ...], images: tuple[str, ...]) -> None:
        self.ids, self.images = ids, images

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def place(self) -> dict[str, int]:
        """Where every document stands."""
        return {doc: number for number, doc in enumerate(self.ids)}

    @cached_property
    def groups(self) -> Groups:
        """The number of every document's image."""
        return Groups(cluster_ids(self.images, len(self.ids)))


class _Of(Mapping[str, Any]):
    """Something by document."""

    def __init__(self, docs: Documents) -> None:
        self.docs = docs

    def __iter__(self) -> Iterator[str]:
        return iter(self.docs.ids)

    def __len__(self) -> int:
        return len(self.docs)

    def __contains__(self, doc: object) -> bool:
        return doc in self.docs.place


class Column(_Of):
    """A number a document."""

    def __init__(self, docs: Documents, numbers: Floats) -> None:
        super().__init__(docs)
        self.numbers = numbers

    def __getitem__(self, doc: str) -> float:
        return float(self.numbers[self.docs.place[doc]])


class Images(_Of):
    """The image of every document."""

    def __getitem__(self, doc: str) -> str:
        return self.docs.images[self.docs.place[doc]]


class Texts(_Of):
    """A text a document, as an Arrow array."""

    def __init__(self, docs: Documents, texts: Any) -> None:
        super().__init__(docs)
        self.texts = texts

    def __getitem__(self, doc: str) -> str:
        return str(self.texts[self.docs.place[doc]].as_py())

    def same(self, other: Mapping[str, str], docs: Documents) -> int:
        """On how many of `docs` both have the same text."""
        if isinstance(other, Texts) and self.docs is other.docs is docs:
            import pyarrow.compute as pc

            return int(pc.sum(pc.equal(self.texts, other.texts)).as_py() or 0)
        return sum(doc in self and self[doc] == other.get(doc) for doc in docs.ids)


class Library:
    """One object for equal documents."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[str, ...], tuple[str, ...]], Documents] = {}

    def documents(self, ids: Sequence[str], images: Sequence[str]) -> Documents:
        """Those of these names and images."""
        key = tuple(ids), tuple(images)
        if key not in self._known:
            self._known[key] = Documents(*key)
        return self._known[key]

    def of(self, by_doc: Mapping[str, Any], images: Mapping[str, str]) -> Documents:
        """Those that `by_doc` has something of."""
        if isinstance(by_doc, _Of):
            return by_doc.docs
        return self.documents([*by_doc], [images.get(doc) or "" for doc in by_doc])

    def shared(self, docs: Documents, *others: Mapping[str, Any]) -> Documents:
        """Those of `docs` that all others have too, in their order."""
        if all(isinstance(other, _Of) and other.docs is docs for other in others):
            return docs
        both = [i for i, doc in enumerate(docs.ids) if all(doc in other for other in others)]
        if len(both) == len(docs):
            return docs
        return self.documents([docs.ids[i] for i in both], [docs.images[i] for i in both])


def numbers(by_doc: Mapping[str, float], docs: Documents) -> Floats:
    """What `by_doc` has of each of `docs`, in their order."""
    if isinstance(by_doc, Column) and by_doc.docs is docs:
        return by_doc.numbers
    return np.array([by_doc[doc] for doc in docs.ids], dtype=np.float64)


def mean(found: Floats) -> float:
    """The plain mean, added up one after the other."""
    return sum(found.tolist()) / len(found)
