"""Ids that a dataset of lmms-eval's own has had on the hub.

Between its releases 0.7.2 and 0.7.3 lmms-eval's datasets moved: 129 task files name the same
dataset under another owner. What was downloaded under one id is the dataset of the other, so a
cache is searched for both, the id that the task names first.
"""

from __future__ import annotations

OLD = "lmms-lab"
NEW = ("lmms-lab-encoder", "lmms-lab-audio", "lmms-eval")  # by number of datasets


def ids_of(dataset: str) -> tuple[str, ...]:
    """The id itself, then those that the same dataset has had or has got since."""
    owner, slash, name = dataset.partition("/")
    others = {OLD: NEW, **dict.fromkeys(NEW, (OLD,))}.get(owner, ()) if slash else ()
    return dataset, *(f"{other}/{name}" for other in others)
